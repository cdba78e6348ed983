//! What a plugin hears of a pod's life, and in which order.

use std::sync::Arc;

use anyhow::Result;
use berth_nri::api::{ContainerState, Event};
use berth_testkit::bed::{busybox, on_a_node};
use berth_testkit::nri::{Behaviour, Does, Plugin, mask, quiet};
use berth_testkit::specs::Container;

#[test]
fn every_step_of_a_pod_and_its_containers_is_heard_in_order() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let plugin = Plugin::join(&bed.node, "10", "order", quiet()).await?;
        let pod = cri.run(&bed.pod("heard").label("app", "heard")).await?;
        let run = plugin.hears("RunPodSandbox").await?.pod;
        assert_eq!((run.id.as_str(), run.name.as_str()), (pod.id.as_str(), "heard"));
        assert_eq!(run.labels["app"], "heard");
        assert_eq!(run.ips, [cri.pod_status(&pod.id).await?.network.unwrap_or_default().ip]);
        let netns = run.linux.unwrap_or_default().namespaces;
        let netns = netns.iter().find(|one| one.r#type == "network").map(|one| one.path.clone());
        assert!(bed.node.path(&netns.unwrap_or_default()).exists());

        let id = cri.launch(&pod, &Container::idle("a", &busybox()).env("X", "1")).await?;
        let started = plugin.hears("PostStartContainer").await?.container;
        assert_eq!((started.id.as_str(), started.name.as_str()), (id.as_str(), "a"));
        assert_eq!(started.state(), ContainerState::ContainerRunning);
        assert_eq!(started.pid, bed.pid(&id).await?);
        assert!(started.env.contains(&"X=1".to_owned()), "{:?}", started.env);
        assert!(started.mounts.iter().any(|mount| mount.destination == "/etc/hosts"));
        // It is told of the process before that runs the container's program.
        assert_eq!(plugin.hears("StartContainer").await?.container.pid, started.pid);

        // It ends by itself, and nobody asks for that.
        bed.node.run("kill", &["-9", &started.pid.to_string()])?;
        let stopped = plugin.hears("StopContainer").await?.container;
        assert_eq!((stopped.state(), stopped.exit_code), (ContainerState::ContainerStopped, 137));
        cri.remove(&id).await?;
        cri.stop_pod(&pod.id).await?;
        // Once is enough.
        cri.stop_pod(&pod.id).await?;
        cri.remove_pod(&pod.id).await?;
        plugin.hears("RemovePodSandbox").await?;
        let all = [
            "RunPodSandbox",
            "CreateContainer",
            "PostCreateContainer",
            "StartContainer",
            "PostStartContainer",
            "StopContainer",
            "RemoveContainer",
            "StopPodSandbox",
            "RemovePodSandbox",
        ];
        assert_eq!(plugin.heard(), all);
        Ok(())
    })
}

#[test]
fn containers_end_before_their_sandbox_and_are_removed_with_it() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("whole")).await?;
        cri.launch(&pod, &Container::idle("a", &busybox())).await?;
        let plugin = Plugin::join(&bed.node, "10", "whole", quiet()).await?;
        cri.clear(&pod.id).await?;
        plugin.hears("RemovePodSandbox").await?;
        let all = ["StopContainer", "StopPodSandbox", "RemoveContainer", "RemovePodSandbox"];
        assert_eq!(plugin.heard(), all);
        Ok(())
    })
}

#[test]
fn plugins_hear_in_the_order_of_their_indices_and_only_what_they_asked_for() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let events = mask(&[Event::RunPodSandbox]);
        let heard = Arc::new(std::sync::Mutex::new(Vec::new()));
        let notes = |name: &'static str| -> Behaviour {
            let heard = Arc::clone(&heard);
            Arc::new(move |call, _| {
                if call == "RunPodSandbox" {
                    heard.lock().unwrap().push(name);
                }
                None
            })
        };
        let late = Plugin::register(&bed.node, "90", "late", (events, notes("late"))).await?;
        let early = Plugin::register(&bed.node, "05", "early", (events, notes("early"))).await?;
        for plugin in [&late, &early] {
            plugin.hears("Synchronize").await?;
        }
        let pod = cri.run(&bed.pod("two")).await?;
        assert_eq!(*heard.lock().unwrap(), ["early", "late"]);
        cri.launch(&pod, &Container::idle("a", &busybox())).await?;
        assert_eq!(late.heard(), ["RunPodSandbox"]);
        Ok(())
    })
}

#[test]
fn a_plugin_of_before_the_newer_calls_hears_by_state_change() -> Result<()> {
    on_a_node(async |bed| {
        let old: Behaviour = Arc::new(|call, _| {
            let known = ["Configure", "Synchronize", "StateChange", "CreateContainer"];
            (!known.contains(&call)).then_some(Does::Lacks)
        });
        let plugin = Plugin::join(&bed.node, "10", "old", old).await?;
        let pod = bed.cri.run(&bed.pod("old")).await?;
        let call = plugin.hears("StateChange RUN_POD_SANDBOX").await?;
        assert_eq!(call.pod.id, pod.id);
        let id = bed.cri.launch(&pod, &Container::idle("a", &busybox())).await?;
        let call = plugin.hears("StateChange POST_START_CONTAINER").await?;
        assert_eq!(call.container.id, id);
        Ok(())
    })
}

#[test]
fn the_end_of_the_daemon_is_heard() -> Result<()> {
    on_a_node(async |bed| {
        let plugin = Plugin::join(&bed.node, "10", "end", quiet()).await?;
        bed.node.stop_daemon()?;
        assert_eq!(plugin.heard(), ["Shutdown"]);
        bed.start().await
    })
}
