//! Limits, updates, OOM kills and figures, read from the kernel.

use std::fs;

use anyhow::{Context as _, Result};
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{Bed, busybox, on_a_node};
use berth_testkit::cri::in_time;
use berth_testkit::specs::Container;

/// A limit, told apart from how a generation of cgroups writes it.
#[derive(Clone, Copy)]
enum Limit {
    /// Relative share of processor time, as CRI has it.
    Shares(u64),
    /// Processor time in a period of 100 ms, in microseconds.
    Quota(u64),
    /// Bytes; none: no limit.
    Memory(Option<u64>),
    /// Processors.
    Cpus(&'static str),
}

impl Limit {
    /// The file that holds it, and what it says then.
    fn written(self, v2: bool) -> (&'static str, String) {
        // What v1 calls no limit: the greatest number of pages.
        const NONE: &str = "9223372036854771712";
        match (self, v2) {
            (Self::Shares(shares), false) => ("cpu.shares", shares.to_string()),
            // The conversion of the OCI runtimes here: 2..262144 to 1..10000.
            (Self::Shares(shares), true) => {
                ("cpu.weight", (1 + (shares - 2) * 9999 / 262_142).to_string())
            }
            (Self::Quota(quota), false) => ("cpu.cfs_quota_us", quota.to_string()),
            (Self::Quota(quota), true) => ("cpu.max", format!("{quota} 100000")),
            (Self::Memory(limit), false) => {
                ("memory.limit_in_bytes", limit.map_or(NONE.to_owned(), |l| l.to_string()))
            }
            (Self::Memory(limit), true) => {
                ("memory.max", limit.map_or("max".to_owned(), |limit| limit.to_string()))
            }
            (Self::Cpus(cpus), _) => ("cpuset.cpus", cpus.to_owned()),
        }
    }
}

/// Demands a limit of a container's cgroup, or of the pod's that it is in.
async fn is(bed: &Bed, id: &str, place: &str, limit: Limit) -> Result<()> {
    let v2 = bed.node.path("/sys/fs/cgroup/cgroup.controllers").exists();
    let (file, value) = limit.written(v2);
    let controller = file.split('.').next().unwrap_or_default();
    assert_eq!(cgroup(bed, id, controller, &format!("{place}{file}")).await?, value, "{file}");
    Ok(())
}

/// A file of the cgroup that a container's first process lives in.
pub(crate) async fn cgroup(bed: &Bed, id: &str, controller: &str, file: &str) -> Result<String> {
    let pid = bed.pid(id).await?;
    let table = fs::read_to_string(bed.node.path(&format!("/proc/{pid}/cgroup")))?;
    let path = table.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?;
        let own = controllers.split(',').any(|one| one == controller) || controllers.is_empty();
        own.then(|| fields.next()).flatten()
    });
    let path = path.with_context(|| format!("{controller} in {table}"))?;
    let root =
        if bed.node.path("/sys/fs/cgroup/cgroup.controllers").exists() { "" } else { controller };
    let file = bed.node.path(&format!("/sys/fs/cgroup/{root}{path}/{file}"));
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    Ok(text.trim().to_owned())
}

#[test]
fn limits_reach_the_kernel_and_updates_too_before_and_after_the_start() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("limits")).await?;
        let container = Container::idle("a", &busybox()).resources(|limits| {
            limits.cpu_shares = 512;
            limits.cpu_period = 100_000;
            limits.cpu_quota = 50_000;
            limits.memory_limit_in_bytes = 64 << 20;
            limits.cpuset_cpus = "0".to_owned();
            limits.oom_score_adj = 500;
        });
        let id = cri.create(&pod, &container).await?;
        update(bed, &id, |limits| limits.cpu_shares = 700).await?;
        cri.start(&id).await?;
        is(bed, &id, "", Limit::Shares(700)).await?;
        is(bed, &id, "", Limit::Quota(50_000)).await?;
        is(bed, &id, "", Limit::Memory(Some(64 << 20))).await?;
        is(bed, &id, "", Limit::Cpus("0")).await?;
        let score = bed.node.path(&format!("/proc/{}/oom_score_adj", bed.pid(&id).await?));
        assert_eq!(fs::read_to_string(&score)?.trim(), "500");

        update(bed, &id, |limits| {
            limits.memory_limit_in_bytes = 128 << 20;
            limits.cpu_quota = 25_000;
            limits.cpu_period = 100_000;
            limits.oom_score_adj = 600;
        })
        .await?;
        is(bed, &id, "", Limit::Memory(Some(128 << 20))).await?;
        is(bed, &id, "", Limit::Quota(25_000)).await?;
        // What is not named stays.
        is(bed, &id, "", Limit::Shares(700)).await?;
        assert_eq!(fs::read_to_string(&score)?.trim(), "600");
        let told = cri.container(&id).await?.resources.and_then(|all| all.linux);
        assert_eq!(told.context("resources in the status")?.memory_limit_in_bytes, 128 << 20);

        // A restarted daemon knows the update.
        bed.crash().await?;
        let told = bed.cri.container(&id).await?.resources.and_then(|all| all.linux);
        assert_eq!(told.context("resources in the status")?.memory_limit_in_bytes, 128 << 20);
        Ok(())
    })
}

pub(crate) async fn update(
    bed: &Bed,
    id: &str,
    change: impl FnOnce(&mut cri::LinuxContainerResources),
) -> Result<()> {
    let mut linux = cri::LinuxContainerResources::default();
    change(&mut linux);
    let request = cri::UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: Some(linux),
        ..Default::default()
    };
    bed.cri.runtime.clone().update_container_resources(in_time(request)).await?;
    Ok(())
}

#[test]
fn containers_live_below_the_cgroup_that_the_kubelet_made() -> Result<()> {
    on_a_node(async |bed| {
        let parent = bed.node.parent().make("kubepods/burstable/pod1")?;
        let pod = bed.cri.run(&bed.pod("kubelet").cgroup_parent(&parent)).await?;
        let id = bed.cri.launch(&pod, &Container::idle("a", &busybox())).await?;
        let pid = bed.pid(&id).await?;
        let table = fs::read_to_string(bed.node.path(&format!("/proc/{pid}/cgroup")))?;
        // Beside v1 hierarchies the unified one holds no limits.
        let v1 = table.lines().any(|line| !line.starts_with("0::/"));
        for line in table.lines().filter(|line| !(v1 && line.starts_with("0::/"))) {
            assert!(line.contains(&format!("{parent}/")), "{line}");
        }
        bed.cri.clear(&pod.id).await?;
        // Not made by Berth, so not removed by it.
        let last = parent.rsplit('/').next().context("a name")?;
        assert!(bed.node.parent().below().iter().any(|path| path.ends_with(last)), "{parent}");
        bed.node.parent().unmake("kubepods/burstable/pod1")?;
        Ok(())
    })
}

#[test]
fn a_container_that_eats_too_much_is_reported_as_oom_killed() -> Result<()> {
    on_a_node(async |bed| {
        let pod = bed.cri.run(&bed.pod("hungry")).await?;
        let eat = "tail /dev/zero";
        let limit = |limits: &mut cri::LinuxContainerResources| {
            limits.memory_limit_in_bytes = 16 << 20;
            limits.memory_swap_limit_in_bytes = 16 << 20;
        };
        let container =
            Container::new("a", &busybox()).shell(&format!("exec {eat}")).resources(limit);
        let id = bed.cri.launch(&pod, &container).await?;
        let status = bed.cri.exited(&id).await?;
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));

        // Killed by hand is something else.
        let (_, other) = bed.idle("killed").await?;
        bed.node.run("kill", &["-9", &bed.pid(&other).await?.to_string()])?;
        let status = bed.cri.exited(&other).await?;
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
        Ok(())
    })
}

#[test]
fn an_oom_kill_that_the_daemon_missed_is_still_told() -> Result<()> {
    on_a_node(async |bed| {
        let pod = bed.cri.run(&bed.pod("missed")).await?;
        let go = bed.node.disk().join("go");
        fs::create_dir_all(&go)?;
        let container = Container::new("a", &busybox())
            .shell("until [ -e /go/now ]; do usleep 10000; done; exec tail /dev/zero")
            .mount(&go, "/go")
            .resources(|limits| {
                limits.memory_limit_in_bytes = 16 << 20;
                limits.memory_swap_limit_in_bytes = 16 << 20;
            });
        let id = bed.cri.launch(&pod, &container).await?;
        let pid = bed.pid(&id).await?;
        bed.node.kill_daemon()?;
        fs::write(go.join("now"), "")?;
        berth_testkit::bed::eventually(
            || "it is not killed".to_owned(),
            async || Ok((!bed.node.path(&format!("/proc/{pid}")).exists()).then_some(())),
        )
        .await?;
        bed.start().await?;
        let status = bed.cri.exited(&id).await?;
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
        Ok(())
    })
}

#[test]
fn figures_of_containers_and_pods_are_those_of_the_kernel() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("figures").label("which", "this")).await?;
        let busy = "head -c 8000000 /dev/zero > /dev/shm/x; while :; do :; done";
        let id = cri.launch(&pod, &Container::new("a", &busybox()).shell(busy)).await?;
        let created = cri.create(&pod, &Container::idle("b", &busybox())).await?;
        let one = async |id: &str| {
            let request = in_time(cri::ContainerStatsRequest { container_id: id.to_owned() });
            let answer = cri.runtime.clone().container_stats(request).await?.into_inner();
            answer.stats.context("figures")
        };
        let cpu = |stats: &cri::ContainerStats| {
            let usage = stats.cpu.as_ref().and_then(|cpu| cpu.usage_core_nano_seconds.as_ref());
            usage.map_or(0, |usage| usage.value)
        };
        let first = one(&id).await?;
        berth_testkit::bed::eventually(
            || "the CPU time does not grow".to_owned(),
            async || Ok((cpu(&one(&id).await?) > cpu(&first) + 50_000_000).then_some(())),
        )
        .await?;
        let working = |stats: &cri::ContainerStats| {
            let memory = stats.memory.as_ref().and_then(|memory| memory.working_set_bytes);
            memory.map_or(0, |bytes| bytes.value)
        };
        berth_testkit::bed::eventually(
            || "it does not have the memory that it writes to".to_owned(),
            async || Ok((working(&one(&id).await?) >= 8_000_000).then_some(())),
        )
        .await?;
        let stats = one(&id).await?;
        assert!((8_000_000..64_000_000).contains(&working(&stats)), "{stats:?}");
        assert!(stats.writable_layer.is_some());
        assert_eq!(stats.attributes.context("attributes")?.id, id);
        one(&created).await?;

        let request = in_time(cri::PodSandboxStatsRequest { pod_sandbox_id: pod.id.clone() });
        let answer = cri.runtime.clone().pod_sandbox_stats(request).await?.into_inner();
        let linux = answer.stats.and_then(|stats| stats.linux).context("figures of the pod")?;
        assert!(linux.cpu.context("cpu")?.usage_core_nano_seconds.context("usage")?.value > 0);
        let network = linux.network.context("network")?.default_interface.context("eth0")?;
        assert_eq!(network.name, "eth0");
        assert!(network.rx_bytes.is_some());
        assert!(linux.process.context("process")?.process_count.context("count")?.value >= 1);
        assert_eq!(linux.containers.len(), 1, "figures are of what runs");

        let all = in_time(cri::ListContainerStatsRequest { filter: None });
        let all = cri.runtime.clone().list_container_stats(all).await?.into_inner().stats;
        assert!(all.iter().any(|one| one.attributes.as_ref().is_some_and(|own| own.id == id)));
        let pods = in_time(cri::ListPodSandboxStatsRequest { filter: None });
        let pods = cri.runtime.clone().list_pod_sandbox_stats(pods).await?.into_inner().stats;
        assert_eq!(pods.len(), 1);
        Ok(())
    })
}

/// What a pod may use as a whole, as verbose status has it.
async fn of_the_pod(bed: &Bed, pod: &str, part: &str) -> Result<serde_json::Value> {
    let details = bed.cri.pod_details(pod).await?;
    let info = details.info.get("info").context("verbose status has a key \"info\"")?;
    Ok(serde_json::from_str::<serde_json::Value>(info)?[part].take())
}

async fn resize(bed: &Bed, pod: &str, memory: i64) -> Result<(), tonic::Status> {
    let resources = cri::LinuxContainerResources {
        memory_limit_in_bytes: memory,
        cpu_quota: 30_000,
        cpu_period: 100_000,
        ..Default::default()
    };
    let request = cri::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod.to_owned(),
        overhead: None,
        resources: Some(resources),
    };
    bed.cri.runtime.clone().update_pod_sandbox_resources(in_time(request)).await.map(drop)
}

#[test]
fn a_pods_own_resources_are_kept_and_limit_a_cgroup_that_berth_made() -> Result<()> {
    on_a_node(async |bed| {
        let limits = |memory| cri::LinuxContainerResources {
            memory_limit_in_bytes: memory,
            ..Default::default()
        };
        let own = berth_testkit::specs::Pod::new("sized").linux(|linux| {
            linux.resources = Some(limits(64 << 20));
            linux.overhead = Some(limits(8 << 20));
        });
        let pod = bed.cri.run(&own).await?;
        let id = bed.cri.launch(&pod, &Container::idle("a", &busybox())).await?;
        is(bed, &id, "../", Limit::Memory(Some(72 << 20))).await?;
        for _ in 0..2 {
            resize(bed, &pod.id, 128 << 20).await?;
            is(bed, &id, "../", Limit::Memory(Some(136 << 20))).await?;
            is(bed, &id, "../", Limit::Quota(30_000)).await?;
        }
        let told = of_the_pod(bed, &pod.id, "resources").await?;
        assert_eq!(told["memory_limit"], 128 << 20);
        assert_eq!(of_the_pod(bed, &pod.id, "overhead").await?["memory_limit"], 8 << 20);
        bed.crash().await?;
        assert_eq!(of_the_pod(bed, &pod.id, "resources").await?, told);

        // What the kernel refuses leaves all as it was.
        let refused = resize(bed, &pod.id, 1 << 10).await;
        if refused.is_err() {
            assert_eq!(of_the_pod(bed, &pod.id, "resources").await?, told);
            is(bed, &id, "../", Limit::Memory(Some(136 << 20))).await?;
        }
        let absent = resize(bed, &"f".repeat(64), 1 << 20).await.unwrap_err();
        assert_eq!(absent.code(), tonic::Code::NotFound);
        bed.cri.stop_pod(&pod.id).await?;
        let stopped = resize(bed, &pod.id, 1 << 30).await.unwrap_err();
        assert_eq!(stopped.code(), tonic::Code::FailedPrecondition);
        Ok(())
    })
}

#[test]
fn a_cgroup_of_the_kubelets_is_not_touched_by_a_pods_resources() -> Result<()> {
    on_a_node(async |bed| {
        let parent = bed.node.parent().make("kubepods/burstable/pod2")?;
        let pod = bed.cri.run(&bed.pod("kubelets").cgroup_parent(&parent)).await?;
        let id = bed.cri.launch(&pod, &Container::idle("a", &busybox())).await?;
        is(bed, &id, "../", Limit::Memory(None)).await?;
        resize(bed, &pod.id, 128 << 20).await?;
        is(bed, &id, "../", Limit::Memory(None)).await?;
        let told = of_the_pod(bed, &pod.id, "resources").await?;
        assert_eq!(told["memory_limit"], 128 << 20);
        bed.cri.clear(&pod.id).await?;
        bed.node.parent().unmake("kubepods/burstable/pod2")?;
        Ok(())
    })
}
