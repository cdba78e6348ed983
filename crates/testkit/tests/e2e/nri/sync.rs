//! The state that a plugin is given when it comes, and that nothing is lost meanwhile.

use std::sync::Arc;

use anyhow::{Result, ensure};
use berth_testkit::bed::{busybox, eventually, on_a_node, on_a_node_with};
use berth_testkit::config::Config;
use berth_testkit::nri::{Behaviour, Does, Plugin, quiet};
use berth_testkit::specs::Container;
use tokio::sync::Semaphore;

#[test]
fn a_plugin_that_comes_late_is_given_what_lives() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("before")).await?;
        cri.launch(&pod, &Container::idle("runs", &busybox())).await?;
        cri.create(&pod, &Container::idle("created", &busybox())).await?;
        let ended =
            cri.launch(&pod, &Container::new("ended", &busybox()).command(&["true"])).await?;
        cri.exited(&ended).await?;
        let plugin = Plugin::join(&bed.node, "10", "late", quiet()).await?;
        let mut all = plugin.hears("Synchronize").await?.all;
        all.sort();
        assert_eq!(all, ["created", "runs"]);
        Ok(())
    })
}

#[test]
fn no_container_is_lost_that_is_created_while_a_plugin_comes() -> Result<()> {
    let config = Config::default().drop_in("nri.toml", "[nri]\nrequest_timeout = \"20s\"");
    on_a_node_with(config, &["busybox"], async |bed| {
        let cri = bed.cri.clone();
        let pod = cri.run(&bed.pod("meanwhile")).await?;
        let gate = Arc::new(Semaphore::new(0));
        let waits = Arc::clone(&gate);
        let does: Behaviour = Arc::new(move |call, _| {
            (call == "Synchronize").then(|| Does::Wait(Arc::clone(&waits)))
        });
        let creating = async |from: usize| {
            let mut all = tokio::task::JoinSet::new();
            for number in from..from + 5 {
                let (cri, pod) = (cri.clone(), pod.clone());
                all.spawn(async move {
                    cri.launch(&pod, &Container::idle(&format!("c{number}"), &busybox())).await
                });
            }
            all
        };
        // Some are under way when it comes, some begin while it is given the state, some come after.
        let before = creating(0).await;
        let plugin = Plugin::register(&bed.node, "10", "comes", (0, does)).await?;
        plugin.hears("Synchronize").await?;
        let during = creating(5).await;
        gate.add_permits(1000);
        for mut all in [before, during, creating(10).await] {
            while let Some(done) = all.join_next().await {
                done??;
            }
        }
        let calls = plugin.calls();
        let given =
            calls.iter().find(|call| call.name == "Synchronize").map(|call| call.all.clone());
        let given = given.unwrap_or_default();
        for number in 0..15 {
            let name = format!("c{number}");
            let asked = calls
                .iter()
                .filter(|call| call.name == "CreateContainer" && call.container.name == name);
            let times = asked.count() + given.iter().filter(|one| **one == name).count();
            ensure!(times == 1, "{name} was told {times} times: {calls:?}");
        }
        Ok(())
    })
}

#[test]
fn after_a_restart_of_the_daemon_a_plugin_that_comes_back_is_given_everything() -> Result<()> {
    on_a_node(async |bed| {
        let plugin = Plugin::join(&bed.node, "10", "back", quiet()).await?;
        let (pod, id) = bed.idle("stays").await?;
        bed.crash().await?;
        plugin.let_go().await?;
        let plugin = Plugin::join(&bed.node, "10", "back", quiet()).await?;
        assert_eq!(plugin.hears("Synchronize").await?.all.len(), 1);
        bed.node.run("kill", &["-9", &bed.pid(&id).await?.to_string()])?;
        assert_eq!(plugin.hears("StopContainer").await?.container.id, id);
        bed.cri.clear(&pod.id).await?;
        assert_eq!(plugin.hears("RemovePodSandbox").await?.pod.id, pod.id);
        Ok(())
    })
}

#[test]
fn a_creation_that_a_dead_daemon_left_unclaimed_is_told_once() -> Result<()> {
    let config = Config::default().drop_in("nri.toml", "[nri]\nrequest_timeout = \"20s\"");
    on_a_node_with(config, &["busybox"], async |bed| {
        let pod = bed.cri.run(&bed.pod("unclaimed")).await?;
        let gate = Arc::new(Semaphore::new(0));
        let waits = Arc::clone(&gate);
        let does: Behaviour = Arc::new(move |call, _| {
            (call == "CreateContainer").then(|| Does::Wait(Arc::clone(&waits)))
        });
        let plugin = Plugin::join(&bed.node, "10", "before", does).await?;
        let container = Container::idle("a", &busybox());
        let (cri, of, wanted) = (bed.cri.clone(), pod.clone(), container.clone());
        let creating = tokio::spawn(async move { cri.create(&of, &wanted).await });
        let id = plugin.hears("CreateContainer").await?.container.id;
        // Its caller leaves, and it is made all the same.
        creating.abort();
        assert!(creating.await.unwrap_err().is_cancelled());
        let log = bed.node.log();
        let left = async || {
            let log = std::fs::read_to_string(&log)?;
            Ok(log.contains("the caller went away").then_some(()))
        };
        eventually(|| "the daemon does not see that its caller left".to_owned(), left).await?;
        gate.add_permits(1);
        let config = bed.node.path(&format!("/run/berth/bundles/{id}/config.json"));
        let made = async || Ok(config.exists().then_some(()));
        eventually(|| "it is not made".to_owned(), made).await?;
        bed.crash().await?;
        let plugin = Plugin::join(&bed.node, "10", "after", quiet()).await?;
        assert_eq!(bed.cri.create(&pod, &container).await?, id);
        plugin.hears("PostCreateContainer").await?;
        let calls = plugin.calls();
        let told = calls.iter().filter(|call| {
            call.all.iter().any(|name| name == "a") || call.name == "CreateContainer"
        });
        ensure!(told.count() == 1, "{calls:?}");
        Ok(())
    })
}
