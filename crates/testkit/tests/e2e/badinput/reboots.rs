//! A rebooted machine: nothing under /run, no processes, the disk as it was; with pods in every
//! state that a power cut can meet.

use anyhow::{Context as _, Result, ensure};
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{Bed, busybox, eventually};
use berth_testkit::config::Config;
use berth_testkit::cri::{Cri, RunningPod};
use berth_testkit::specs::{Container, Pod};
use cri::{ContainerState, PodSandboxState};
use tonic::Code;

use super::plugins::nothing_left_over;
use super::{refuses, the_next_pod_is_fine};
use crate::standin::{Plugin, on_a_node_with_plugin};

/// A script that a plugin never comes back from.
const STUCK: &str = "sleep 1000";

/// Pods in every state, by their names; those under removal are not listed any more.
struct States {
    ready: RunningPod,
    full: RunningPod,
    created: String,
    running: String,
    exited: String,
    stopping: String,
    shared: RunningPod,
    stopped: RunningPod,
    ending: RunningPod,
}

/// Makes them. Calls that do not come back are left to the power cut.
async fn make(bed: &Bed, plugin: &Plugin) -> Result<States> {
    let cri = &bed.cri;
    let ready = cri.run(&bed.pod("ready").port(8090, 80)).await?;
    let full = cri.run(&bed.pod("full")).await?;
    let created = cri.create(&full, &Container::idle("created", &busybox())).await?;
    let running = cri.launch(&full, &Container::idle("running", &busybox())).await?;
    let exits = Container::new("exited", &busybox()).shell("exit 7");
    let exited = cri.launch(&full, &exits).await?;
    cri.exited(&exited).await?;
    let stubborn = Container::new("a", &busybox())
        .shell("trap 'echo told' TERM; echo set; while :; do sleep 0.1; done");
    let stopping = cri.launch(&full, &stubborn).await?;
    bed.log_says("full", "set").await?;
    let (other, id) = (cri.clone(), stopping.clone());
    tokio::spawn(async move { other.stop(&id, 3600).await });
    bed.log_says("full", "told").await?;
    let shared = cri.run(&bed.pod("shared").shared_pid()).await?;
    cri.launch(&shared, &Container::idle("a", &busybox())).await?;
    let stopped = cri.run(&bed.pod("stopped")).await?;
    cri.launch(&stopped, &Container::idle("a", &busybox())).await?;
    cri.stop_pod(&stopped.id).await?;

    // From here on some plugins never answer.
    let left = cri.run(&bed.pod("left")).await?;
    plugin.script("DEL", "left", "echo no hands >&2; exit 1")?;
    cri.clear(&left.id).await?;
    let ending = cri.run(&bed.pod("ending")).await?;
    let removing = cri.run(&bed.pod("removing")).await?;
    cri.create(&removing, &Container::idle("a", &busybox())).await?;
    plugin.forget()?;
    plugin.script("ADD", "creating", STUCK)?;
    plugin.script("DEL", "ending", STUCK)?;
    plugin.script("DEL", "removing", STUCK)?;
    let (other, pod) = (cri.clone(), bed.pod("creating"));
    tokio::spawn(async move { other.run(&pod).await });
    let (other, id) = (cri.clone(), ending.id.clone());
    tokio::spawn(async move { other.stop_pod(&id).await });
    let (other, id) = (cri.clone(), removing.id.clone());
    tokio::spawn(async move { other.remove_pod(&id).await });
    eventually(
        || "the plugins have not been called".to_owned(),
        async || {
            let both = plugin.calls("ADD")?.len() == 1 && plugin.calls("DEL")?.len() >= 2;
            Ok(both.then_some(()))
        },
    )
    .await?;
    Ok(States { ready, full, created, running, exited, stopping, shared, stopped, ending })
}

/// Demands that every pod is told of as it is: not ready, its containers ended.
async fn told(cri: &Cri, states: &States) -> Result<()> {
    let States { ready, full, shared, stopped, ending, .. } = states;
    for pod in [ready, full, shared, stopped, ending] {
        let status = cri.pod_status(&pod.id).await.context(pod.id.clone())?;
        assert_eq!(status.state(), PodSandboxState::SandboxNotready, "{status:?}");
    }
    let ended = [(&states.running, 255), (&states.stopping, 255), (&states.exited, 7)];
    for (id, code) in ended {
        let status = cri.container(id).await?;
        assert_eq!(status.state(), ContainerState::ContainerExited, "{status:?}");
        assert_eq!(status.exit_code, code, "{status:?}");
    }
    // What never ran is gone with the rest.
    let status = cri.container(&states.created).await?;
    assert_eq!(status.state(), ContainerState::ContainerExited, "{status:?}");
    // A dead pod takes no more work, and says why.
    let late = Container::idle("late", &busybox());
    let words = ["reboot"];
    refuses("create", cri.create(full, &late).await, (Code::FailedPrecondition, &words))?;
    let start = cri.start(&states.created).await;
    ensure!(start.is_err_and(|status| status.code() == Code::FailedPrecondition));
    let exec = cri.exec(&states.running, &["true"]).await;
    ensure!(exec.is_err_and(|status| status.code() == Code::FailedPrecondition));
    Ok(())
}

/// Waits until only these pods are listed: what was never answered, or on its way out, goes by
/// itself.
async fn only(bed: &Bed, pods: &[&RunningPod]) -> Result<()> {
    eventually(
        || "pods that nobody knows are still there".to_owned(),
        async || {
            let status: serde_json::Value =
                serde_json::from_str(&bed.berth(&["status", "--json"])?)?;
            let there = status["pods"].as_array().context("pods")?;
            let known =
                |one: &serde_json::Value| pods.iter().any(|pod| one["id"] == pod.id.as_str());
            Ok((there.len() == pods.len() && there.iter().all(known)).then_some(()))
        },
    )
    .await
}

#[test]
fn after_a_power_cut_every_state_of_a_pod_comes_to_its_end() -> Result<()> {
    let text = "[deadlines]\ncni_add = \"60s\"\ncni_del = \"60s\"\n";
    let config = Config::default().drop_in("50-long.toml", text);
    on_a_node_with_plugin(config, async |bed, plugin: &Plugin| {
        let states = make(bed, plugin).await?;
        bed.node.reboot()?;
        plugin.unscripted()?;
        plugin.forget()?;
        bed.start().await?;
        told(&bed.cri, &states).await?;
        let States { ready, full, shared, stopped, ending, .. } = &states;
        let known = [ready, full, shared, stopped, ending];
        only(bed, &known).await?;
        nothing_left_over(bed).await?;

        // A second cut, before anybody has cleaned up after the first, and in the midst of it.
        let before = plugin.calls("DEL")?.len();
        plugin.script("DEL", "shared", STUCK)?;
        let (cri, id) = (bed.cri.clone(), shared.id.clone());
        tokio::spawn(async move { cri.stop_pod(&id).await });
        eventually(
            || "no DEL".to_owned(),
            async || Ok((plugin.calls("DEL")?.len() > before).then_some(())),
        )
        .await?;
        bed.node.reboot()?;
        plugin.unscripted()?;
        plugin.forget()?;
        bed.start().await?;
        told(&bed.cri, &states).await?;
        only(bed, &known).await?;

        // Each is detached by what was kept of its ADD, without a netns, and then goes.
        for pod in known {
            bed.cri.stop_pod(&pod.id).await?;
            bed.cri.stop_pod(&pod.id).await?;
        }
        for pod in [ready, full, shared] {
            let calls = plugin.calls("DEL")?;
            ensure!(calls.iter().any(|call| call.contains(&pod.id)), "no DEL of {}", pod.id);
        }
        let leases = bed.node.run("sh", &["-c", "ls /var/lib/cni/networks/testnet"])?;
        assert!(!leases.contains("198.18"), "{leases}");
        for pod in known {
            bed.cri.remove_pod(&pod.id).await?;
        }
        only(bed, &[]).await?;
        nothing_left_over(bed).await?;
        // The names are free, and the node works: what the first pod of a boot makes is there again.
        let pod = bed.cri.run(&Pod::new("creating")).await?;
        bed.cri.launch(&pod, &Container::idle("a", &busybox())).await?;
        bed.cri.clear(&pod.id).await?;
        the_next_pod_is_fine(bed).await
    })
}
