//! Stopping: the signal, the grace, the kill, and several callers at once.

use std::time::{Duration, Instant};

use anyhow::Result;
use berth_testkit::bed::{busybox, on_a_node, on_a_node_with, reference};
use berth_testkit::config::Config;
use berth_testkit::patience::here;
use berth_testkit::specs::Container;

/// Ignores SIGTERM, and says that it does.
const STUBBORN: &str = "trap 'echo term' TERM; echo ready; while :; do sleep 1 & wait $!; done";

#[test]
fn a_container_that_obeys_ends_within_its_grace() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("polite")).await?;
        let line =
            "trap 'echo bye; exit 42' TERM; echo ready; while :; do sleep 1000 & wait $!; done";
        let id = cri.launch(&pod, &Container::new("a", &busybox()).shell(line)).await?;
        bed.log_says("polite", "ready").await?;
        let start = Instant::now();
        cri.stop(&id, 30).await?;
        assert!(start.elapsed() < here(Duration::from_secs(5)));
        assert_eq!(cri.container(&id).await?.exit_code, 42);
        assert!(bed.log("polite")?.contains("bye"));
        Ok(())
    })
}

#[test]
fn a_container_that_does_not_obey_is_killed_after_its_grace() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("stubborn")).await?;
        let id = cri.launch(&pod, &Container::new("a", &busybox()).shell(STUBBORN)).await?;
        bed.log_says("stubborn", "ready").await?;
        let start = Instant::now();
        cri.stop(&id, 1).await?;
        let took = start.elapsed();
        assert!(took >= Duration::from_secs(1) && took < here(Duration::from_secs(5)), "{took:?}");
        assert_eq!(cri.container(&id).await?.exit_code, 137);
        assert_eq!(bed.log("stubborn")?.matches("term").count(), 1, "the signal is sent once");
        Ok(())
    })
}

#[test]
fn the_shorter_grace_of_two_stops_wins_and_the_signal_is_sent_once() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("joined")).await?;
        let id = cri.launch(&pod, &Container::new("a", &busybox()).shell(STUBBORN)).await?;
        bed.log_says("joined", "ready").await?;
        let start = Instant::now();
        let (patient, same) = (cri.clone(), id.clone());
        let first = tokio::spawn(async move { patient.stop(&same, 60).await });
        bed.log_says("joined", "term").await?;
        cri.stop(&id, 0).await?;
        first.await??;
        assert!(start.elapsed() < here(Duration::from_secs(10)));
        assert_eq!(bed.log("joined")?.matches("term").count(), 1);
        Ok(())
    })
}

#[test]
fn a_pod_stops_all_its_containers_within_one_grace() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("many")).await?;
        let mut ids = Vec::new();
        for name in ["a", "b", "c", "d"] {
            ids.push(cri.launch(&pod, &Container::idle(name, &busybox())).await?);
        }
        cri.stop_pod(&pod.id).await?;
        for id in ids {
            assert!(cri.container(&id).await?.finished_at > 0);
        }
        Ok(())
    })
}

#[test]
fn the_stop_signal_is_the_image_s_or_the_container_s() -> Result<()> {
    on_a_node_with(Config::default(), &["busybox", "signal"], async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("signals")).await?;
        let line = "trap 'exit 10' USR1; trap 'exit 11' INT; trap 'exit 12' TERM; echo ready; \
                    while :; do sleep 1000 & wait $!; done";
        for (name, image, signal, code) in [
            ("a", reference("signal"), 0, 10),
            ("b", busybox(), berth_proto::cri::v1::Signal::Sigint as i32, 11),
            ("c", busybox(), 0, 12),
        ] {
            let container =
                Container::new(name, &image).shell(line).with(|config| config.stop_signal = signal);
            let id = cri.launch(&pod, &container).await?;
            bed.file_says(&bed.logs("signals").join(format!("{name}.0.log")), "ready").await?;
            cri.stop(&id, 10).await?;
            assert_eq!(cri.container(&id).await?.exit_code, code, "{name}");
        }
        Ok(())
    })
}

#[test]
fn a_stop_right_after_the_start_reaches_the_container_s_own_program() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("early")).await?;
        for turn in 0..5 {
            // No handler: as PID 1 it ignores SIGTERM unless it execs something that does not,
            // so the grace must run out and the kill must come; nothing may hang or be lost.
            let name = format!("c{turn}");
            let container = Container::new(&name, &busybox()).command(&["sleep", "1000"]);
            let id = cri.launch(&pod, &container).await?;
            cri.stop(&id, 1).await?;
            assert_eq!(cri.container(&id).await?.exit_code, 137);
        }
        Ok(())
    })
}

#[test]
fn everything_in_a_container_is_dead_before_its_exit_is_reported() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        // One PID namespace for the pod: the kernel does not kill orphans for us.
        let pod = cri.run(&bed.pod("family").shared_pid()).await?;
        let line = "for i in 1 2 3 4 5; do setsid sleep 5511 & done; exit 0";
        let id = cri.launch(&pod, &Container::new("a", &busybox()).shell(line)).await?;
        cri.exited(&id).await?;
        let left = bed.node.run("ps", &["-e", "-o", "args"])?;
        assert!(!left.contains("sleep 5511"), "{left}");
        Ok(())
    })
}
