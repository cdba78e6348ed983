//! Live pods while their daemon, their kubelet and their node are restarted.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::LocalBoxFuture;
use serde_json::Value;

use crate::kubelet::path::Address;
use crate::kubelet::world::{World, condition, container, restarts};

type Act = for<'a> fn(&'a mut World) -> LocalBoxFuture<'a, Result<String>>;

/// Something that happens to live pods, and what must be true afterwards.
#[derive(Clone, Copy)]
pub(in crate::kubelet) struct Upheaval {
    pub(in crate::kubelet) name: &'static str,
    pub(in crate::kubelet) act: Act,
}

/// In this order: each finds the pods of the one before.
pub(in crate::kubelet) fn upheavals() -> [Upheaval; 5] {
    [
        Upheaval { name: "figures of live pods", act: |world| Box::pin(figures(world)) },
        Upheaval { name: "the daemon killed", act: |world| Box::pin(killed(world)) },
        Upheaval { name: "the daemon stopped and started", act: |world| Box::pin(stopped(world)) },
        Upheaval { name: "the kubelet killed", act: |world| Box::pin(kubelet(world)) },
        Upheaval { name: "a reboot", act: |world| Box::pin(reboot(world)) },
    ]
}

const CONTAINERS: [&str; 2] = ["main", "web"];

/// Processes of the live pod, by their pids and the times of their starts.
async fn identities(world: &World) -> Result<Vec<(u32, String)>> {
    let pod = world.ready("live").await?;
    let mut found = Vec::new();
    for name in CONTAINERS {
        ensure!(restarts(&pod, name) == 0, "{name} was restarted");
        let id = container(&pod, name)["containerID"].as_str().context("an id")?;
        let id = id.strip_prefix("berth://").context("an id of Berth's")?;
        found.push(world.bed.identity(id).await?);
    }
    Ok(found)
}

/// What must work after everything: exec in a live pod, a log without a gap, and a new pod.
async fn works(world: &World) -> Result<()> {
    // The kubelet takes some seconds before it calls again where nobody answered.
    world.will_say("live", "main", "echo here", "here").await?;
    let log = world.get("/containerLogs/default/live/main").await?;
    let mut lines = log.lines().map(str::parse::<u64>);
    let first = lines.next().context("a line")??;
    for (number, line) in (first + 1..).zip(lines) {
        ensure!(line? == number, "the log has a gap before {number}");
    }
    world.run(include_str!("../manifests/readonly.yaml"), &["readonly"]).await?;
    world.delete("readonly").await
}

async fn figures(world: &mut World) -> Result<String> {
    world.run(include_str!("../manifests/live.yaml"), &["live", "unwanted"]).await?;
    let summary: Value = serde_json::from_str(&world.get("/stats/summary").await?)?;
    let pods = summary["pods"].as_array().context("pods in the summary")?;
    let own = pods.iter().find(|pod| pod["podRef"]["name"] == "live").context("the pod")?;
    let count = own["containers"].as_array().map_or(0, Vec::len);
    ensure!(count == CONTAINERS.len(), "{count} containers in {own}");
    for path in ["/cpu/usageCoreNanoSeconds", "/memory/workingSetBytes", "/network/rxBytes"] {
        ensure!(own.pointer(path).and_then(Value::as_u64).is_some(), "no {path} in {own}");
    }
    let series = world.get("/metrics/cadvisor").await?;
    for name in ["container_memory_working_set_bytes", "container_network_receive_bytes_total"] {
        let has = |line: &str| line.starts_with(name) && line.contains("pod=\"live\"");
        ensure!(series.lines().any(has), "no {name} of the pod in /metrics/cadvisor");
    }
    let listed: Value = serde_json::from_str(&world.get("/pods").await?)?;
    let names = listed["items"].as_array().map_or(0, Vec::len);
    Ok(format!("summary and cadvisor series of the pod, from CRI; {names} pods listed"))
}

async fn killed(world: &mut World) -> Result<String> {
    let before = identities(world).await?;
    world.bed.node.kill_daemon()?;
    // The kubelet finds nobody for a while.
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.bed.start().await?;
    after(world, &before).await
}

async fn stopped(world: &mut World) -> Result<String> {
    let before = identities(world).await?;
    world.bed.node.stop_daemon()?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.bed.start().await?;
    after(world, &before).await
}

async fn after(world: &World, before: &[(u32, String)]) -> Result<String> {
    works(world).await?;
    ensure!(identities(world).await? == before, "other processes than before");
    Ok("the same processes, no gap in the log, a new pod runs".to_owned())
}

/// A pod that is taken away meanwhile is none that the new kubelet knows: it must remove it.
async fn kubelet(world: &mut World) -> Result<String> {
    let before = identities(world).await?;
    world.kubelet.kill();
    world.store.delete(&Address::pod("unwanted")).ok().context("the unwanted pod")?;
    world.start_kubelet().await?;
    after(world, &before).await?;
    let listed = async || {
        let containers = world.bed.cri.containers().await?;
        Ok((!containers.iter().any(|own| {
            own.labels.get("io.kubernetes.pod.name").is_some_and(|name| name == "unwanted")
        }))
        .then_some(()))
    };
    world.patiently("the unwanted pod's container is still listed", listed).await?;
    Ok("the same processes, no gap in the log; a pod that it does not know is removed".to_owned())
}

async fn reboot(world: &mut World) -> Result<String> {
    world.sh("live", "main", "echo kept > /data/file").await?;
    let before = world.ready("live").await?;
    world.reboot().await?;
    let anew = |pod: &Value| {
        condition(pod, "Ready") == "True"
            && CONTAINERS.iter().all(|name| {
                container(pod, name)["containerID"] != container(&before, name)["containerID"]
            })
    };
    let pod = world.until("live", "runs again", anew).await?;
    for name in CONTAINERS {
        ensure!(restarts(&pod, name) == 1, "{name}: {}", container(&pod, name));
    }
    world.says("live", "main", "cat /data/file", "kept").await?;
    works(world).await?;
    world.delete("live").await?;
    Ok("the pod runs again, each container restarted once; its volume on disk is kept".to_owned())
}
