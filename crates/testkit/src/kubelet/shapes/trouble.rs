//! Pods that do not do well.

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::kubelet::world::{World, container, restarts};

pub(super) async fn oom(world: &World) -> Result<String> {
    world.apply(include_str!("../manifests/oom.yaml"))?;
    let killed = |pod: &Value| {
        let main = container(pod, "main");
        let ended = &main["lastState"]["terminated"];
        ended["reason"] == "OOMKilled"
            && ended["exitCode"] == 137
            && restarts(pod, "main") >= 2
            && main["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    };
    world.until("oom", "OOMKilled twice", killed).await?;
    world.delete("oom").await?;
    Ok("OOMKilled, 137, CrashLoopBackOff".to_owned())
}

pub(super) async fn back_off(world: &World) -> Result<String> {
    world.apply(include_str!("../manifests/backoff.yaml"))?;
    let again = |pod: &Value| {
        let main = container(pod, "main");
        let ended = &main["lastState"]["terminated"];
        ended["exitCode"] == 7
            && ended["message"] == "on purpose\n"
            && main["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    };
    world.until("backoff", "CrashLoopBackOff", again).await?;
    world.until("backoff", "a third try", |pod| restarts(pod, "main") >= 3).await?;
    let no_image =
        |pod: &Value| container(pod, "main")["state"]["waiting"]["reason"] == "ImagePullBackOff";
    world.until("no-image", "ImagePullBackOff", no_image).await?;
    world.delete("backoff").await?;
    world.delete("no-image").await?;
    Ok("exit code and message; CrashLoopBackOff; ImagePullBackOff".to_owned())
}

pub(super) async fn class(world: &World) -> Result<String> {
    world.run(include_str!("../manifests/class.yaml"), &["class"]).await?;
    let pods = world.bed.cri.pods().await?;
    let own = pods.iter().find(|pod| pod.metadata.as_ref().is_some_and(|own| own.name == "class"));
    ensure!(own.is_some_and(|pod| pod.runtime_handler == "runc"), "the handler of {own:?}");
    let refused = world.event("class-nowhere", "FailedCreatePodSandBox").await?;
    ensure!(refused.contains("nowhere") && refused.contains("runc"), "{refused}");
    world.event("class-unknown", "FailedCreatePodSandBox").await?;
    for pod in ["class", "class-nowhere", "class-unknown"] {
        world.delete(pod).await?;
    }
    Ok("runs by runc; a handler that is not there is refused, with those that are".to_owned())
}
