//! How pods begin, are looked after, and end.

use std::fs;

use anyhow::{Result, ensure};

use crate::kubelet::path::Address;
use crate::kubelet::world::{World, condition, container, restarts};

const STATIC: &str = include_str!("../manifests/static.yaml");
/// The name of a static pod has its node's at the end.
const MIRROR: &str = "static-node";

pub(super) async fn static_pod(world: &World) -> Result<String> {
    let file = world.kubelet.manifests().join("static.yaml");
    fs::write(&file, STATIC)?;
    let pod = world.ready(MIRROR).await?;
    ensure!(pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string());
    world.says(MIRROR, "main", "echo $GENERATION", "first").await?;
    let first = container(&pod, "main")["containerID"].clone();
    fs::write(&file, STATIC.replace("first", "second"))?;
    let new = |pod: &serde_json::Value| {
        condition(pod, "Ready") == "True" && container(pod, "main")["containerID"] != first
    };
    world.until(MIRROR, "replaced", new).await?;
    world.says(MIRROR, "main", "echo $GENERATION", "second").await?;
    // A mirror that somebody takes away comes back, and its pod never stops.
    drop(world.store.delete(&Address::pod(MIRROR)));
    world.ready(MIRROR).await?;
    fs::remove_file(&file)?;
    world.gone(MIRROR).await?;
    Ok("runs, is replaced when its file changes, and goes with its file".to_owned())
}

pub(super) async fn init(world: &World) -> Result<String> {
    world.apply(include_str!("../manifests/init.yaml"))?;
    let done = |pod: &serde_json::Value| pod["status"]["phase"] == "Succeeded";
    let pod = world.until("init", "Succeeded", done).await?;
    let order = container(&pod, "main")["state"]["terminated"]["message"].as_str().unwrap_or("");
    ensure!(order.trim() == "one sidecar two main sidecar", "in the order {order:?}");
    ensure!(restarts(&pod, "sidecar") == 1, "the sidecar: {}", container(&pod, "sidecar"));
    world.delete("init").await?;
    Ok(order.trim().replace(' ', ", "))
}

pub(super) async fn hooks(world: &World) -> Result<String> {
    world.run(include_str!("../manifests/hooks.yaml"), &["hooks"]).await?;
    world.says("hooks", "main", "cat /told/order", "postStart").await?;
    world.delete("hooks").await?;
    let order = fs::read_to_string(world.bed.node.path("/run/told/order"))?;
    let order: Vec<_> = order.lines().collect();
    ensure!(order == ["postStart", "preStop", "term"], "in the order {order:?}");
    fs::remove_dir_all(world.bed.node.path("/run/told"))?;
    Ok(order.join(", "))
}

pub(super) async fn probes(world: &World) -> Result<String> {
    world.apply(include_str!("../manifests/probes.yaml"))?;
    let others = |pod: &serde_json::Value| {
        ["web", "grpc"].iter().all(|name| container(pod, name)["ready"] == true)
    };
    let pod = world.until("probes", "web and grpc ready", others).await?;
    ensure!(container(&pod, "tcp")["ready"] == false, "tcp is ready before it listens");
    world.sh("probes", "tcp", "touch /go").await?;
    world.ready("probes").await?;
    world.sh("probes", "grpc", "touch /sick").await?;
    let sick = |pod: &serde_json::Value| container(pod, "grpc")["ready"] == false;
    world.until("probes", "not ready by gRPC", sick).await?;
    world.sh("probes", "grpc", "rm /sick").await?;
    world.ready("probes").await?;
    world.sh("probes", "web", "rm /www/index.html").await?;
    let anew =
        |pod: &serde_json::Value| restarts(pod, "web") == 1 && condition(pod, "Ready") == "True";
    let pod = world.until("probes", "web restarted", anew).await?;
    ensure!(restarts(&pod, "tcp") + restarts(&pod, "grpc") == 0, "others restarted");
    world.delete("probes").await?;
    Ok("startup by exec, liveness by HTTP restarts, readiness by TCP and gRPC follows".to_owned())
}
