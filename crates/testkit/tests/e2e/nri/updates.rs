//! Limits that plugins change, asked and unasked, and containers that they evict.

use std::sync::{Arc, Mutex};

use anyhow::Result;
use berth_nri::api::{
    ContainerEviction, ContainerUpdate, CreateContainerResponse, LinuxContainerUpdate, LinuxCpu,
    LinuxMemory, LinuxPids, LinuxResources, OptionalInt64, OptionalUInt64, UpdateContainerResponse,
    UpdateContainersRequest,
};
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{busybox, on_a_node};
use berth_testkit::cri::in_time;
use berth_testkit::nri::{Behaviour, Does, Plugin, quiet};
use berth_testkit::specs::Container;
use prost::Message as _;

use crate::resources::{cgroup, update};

fn shares(value: u64) -> LinuxResources {
    let cpu = LinuxCpu { shares: Some(OptionalUInt64 { value }), ..LinuxCpu::default() };
    LinuxResources { cpu: Some(cpu), ..LinuxResources::default() }
}

fn of(id: &str, resources: LinuxResources) -> ContainerUpdate {
    let linux = Some(LinuxContainerUpdate { resources: Some(resources) });
    ContainerUpdate { container_id: id.to_owned(), linux, ignore_failure: false }
}

#[test]
fn a_plugin_changes_an_update_and_others_beside_it() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("updates")).await?;
        let a = cri.launch(&pod, &Container::idle("a", &busybox())).await?;
        let b = cri.launch(&pod, &Container::idle("b", &busybox())).await?;
        let answer = UpdateContainerResponse {
            update: vec![of(&a, shares(700)), of(&b, shares(800))],
            evict: Vec::new(),
        };
        let does: Behaviour = Arc::new(move |call, _| {
            (call == "UpdateContainer").then(|| Does::Answer(answer.encode_to_vec()))
        });
        let plugin = Plugin::join(&bed.node, "10", "updates", does).await?;
        update(bed, &a, |limits| {
            limits.cpu_shares = 600;
            limits.memory_limit_in_bytes = 64 << 20;
        })
        .await?;
        assert_eq!(cgroup(bed, &a, "cpu", "cpu.shares").await?, "700");
        assert_eq!(cgroup(bed, &a, "memory", "memory.limit_in_bytes").await?, "67108864");
        assert_eq!(cgroup(bed, &b, "cpu", "cpu.shares").await?, "800");
        plugin.hears("PostUpdateContainer").await?;
        assert_eq!(plugin.heard(), ["UpdateContainer", "PostUpdateContainer"]);

        let request = cri::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: pod.id.clone(),
            resources: Some(cri::LinuxContainerResources { cpu_shares: 99, ..Default::default() }),
            ..Default::default()
        };
        cri.runtime.clone().update_pod_sandbox_resources(in_time(request)).await?;
        plugin.hears("PostUpdatePodSandbox").await?;
        assert_eq!(plugin.heard(), ["UpdatePodSandbox", "PostUpdatePodSandbox"]);
        Ok(())
    })
}

#[test]
fn a_plugin_updates_and_evicts_unasked_and_hears_what_failed() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("unasked")).await?;
        let a = cri.launch(&pod, &Container::idle("a", &busybox())).await?;
        let b = cri.launch(&pod, &Container::idle("b", &busybox())).await?;
        let plugin = Plugin::join(&bed.node, "10", "unasked", quiet()).await?;
        let memory =
            LinuxMemory { limit: Some(OptionalInt64 { value: 32 << 20 }), ..Default::default() };
        let fixed = LinuxResources { pids: Some(LinuxPids { limit: 5 }), ..Default::default() };
        let request = UpdateContainersRequest {
            update: vec![
                of(&a, LinuxResources { memory: Some(memory), ..shares(555) }),
                of(&b, fixed.clone()),
                ContainerUpdate { ignore_failure: true, ..of(&b, fixed.clone()) },
                of("nobody", shares(5)),
            ],
            evict: Vec::new(),
        };
        assert_eq!(plugin.updates(request).await?.failed, [of(&b, fixed)]);
        assert_eq!(cgroup(bed, &a, "cpu", "cpu.shares").await?, "555");
        assert_eq!(cgroup(bed, &a, "memory", "memory.limit_in_bytes").await?, "33554432");
        // It is not asked about what it wants itself.
        assert_eq!(plugin.heard(), [""; 0]);

        let evict = vec![ContainerEviction { container_id: b.clone(), reason: "room".into() }];
        plugin.updates(UpdateContainersRequest { update: Vec::new(), evict }).await?;
        assert_eq!(cri.container(&b).await?.exit_code, 137);
        assert_eq!(plugin.hears("StopContainer").await?.container.id, b);
        Ok(())
    })
}

#[test]
fn a_creation_makes_room_among_others() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("room")).await?;
        let other = cri.launch(&pod, &Container::idle("other", &busybox())).await?;
        let victim = cri.launch(&pod, &Container::idle("victim", &busybox())).await?;
        let answer = Mutex::new(CreateContainerResponse {
            adjust: None,
            update: vec![of(&other, shares(222))],
            evict: vec![ContainerEviction { container_id: victim.clone(), reason: "room".into() }],
        });
        let does: Behaviour = Arc::new(move |call, _| {
            let answer = answer.lock().unwrap().encode_to_vec();
            (call == "CreateContainer").then_some(Does::Answer(answer))
        });
        let _plugin = Plugin::join(&bed.node, "10", "room", does).await?;
        cri.launch(&pod, &Container::idle("new", &busybox())).await?;
        assert_eq!(cgroup(bed, &other, "cpu", "cpu.shares").await?, "222");
        assert_eq!(cri.container(&victim).await?.exit_code, 137);
        Ok(())
    })
}
