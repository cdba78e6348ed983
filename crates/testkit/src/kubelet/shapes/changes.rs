//! Pods that change while they run.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::kubelet::defaults;
use crate::kubelet::path::Address;
use crate::kubelet::world::{World, container, restarts};

pub(super) async fn debug(world: &World) -> Result<String> {
    world.run(include_str!("../manifests/debug.yaml"), &["debug", "one-pid"]).await?;
    let pods = Address::pod("debug");
    let mut own = json!({
        "name": "debugger", "image": "127.0.0.1:5000/testing/busybox",
        "command": ["sleep", "3600"], "targetContainerName": "main",
    });
    defaults::container(&mut own);
    world.change(&pods, |pod| pod["spec"]["ephemeralContainers"] = json!([own]))?;
    let runs = |pod: &Value| container(pod, "debugger")["state"]["running"].is_object();
    world.until("debug", "the debugger runs", runs).await?;
    world.says("debug", "debugger", "tr '\\0' ' ' < /proc/1/cmdline", "sleep 4711 ").await?;
    let seen = "ps -o args | grep -c '^[s]leep 4711'";
    world.says("one-pid", "side", seen, "1").await?;
    let pod = world.ready("debug").await?;
    ensure!(restarts(&pod, "main") == 0);
    world.delete("debug").await?;
    world.delete("one-pid").await?;
    Ok("the debugger's PID 1 is its target; containers see each other's processes".to_owned())
}

/// The limit of CPU in thousandths of one, and of memory in MiB, as the container's cgroup has them.
async fn limits(world: &World) -> Result<(u64, u64)> {
    let line = "cd /sys/fs/cgroup; cat cpu/cpu.cfs_quota_us memory/memory.limit_in_bytes \
        2>/dev/null || { cut -d' ' -f1 cpu.max; cat memory.max; }";
    let said = world.sh("resize", "main", line).await?;
    let mut numbers = said.lines().map(str::parse::<u64>);
    let mut next = || numbers.next().context("a number")?.context("a number");
    Ok((next()? / 100, next()? >> 20))
}

pub(super) async fn resize(world: &World) -> Result<String> {
    world.run(include_str!("../manifests/resize.yaml"), &["resize"]).await?;
    let first = world.ready("resize").await?;
    ensure!(limits(world).await? == (200, 64), "at first {:?}", limits(world).await?);
    for (cpu, memory) in [(500, 128), (100, 48)] {
        let resources = json!({
            "requests": {"cpu": "50m", "memory": "32Mi"},
            "limits": {"cpu": format!("{cpu}m"), "memory": format!("{memory}Mi")},
        });
        world.change(&Address::pod("resize"), |pod| {
            pod["spec"]["containers"][0]["resources"] = resources.clone();
        })?;
        let done =
            |pod: &Value| container(pod, "main")["resources"]["limits"] == resources["limits"];
        let pod = world.until("resize", "resized", done).await?;
        let now = limits(world).await?;
        ensure!(now == (cpu, memory), "{now:?}, not {:?}", (cpu, memory));
        let same =
            container(&pod, "main")["containerID"] == container(&first, "main")["containerID"];
        ensure!(same && restarts(&pod, "main") == 0, "the container was restarted");
    }
    world.delete("resize").await?;
    Ok("up and down, in the container's cgroup; the same process".to_owned())
}
