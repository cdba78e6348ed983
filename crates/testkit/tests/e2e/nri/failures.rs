//! Plugins that refuse, hang, die or talk nonsense, and those that are required.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use anyhow::{Result, ensure};
use berth_testkit::bed::{busybox, eventually, on_a_node, on_a_node_with, push};
use berth_testkit::config::Config;
use berth_testkit::nri::{Behaviour, Does, Plugin, SOCKET, quiet};
use berth_testkit::specs::Container;
use tonic::Code;

/// Does this at one call.
fn at(call: &'static str, does: fn() -> Does) -> Behaviour {
    Arc::new(move |called, _| (called == call).then(does))
}

#[test]
fn a_refused_pod_and_a_refused_container_leave_nothing() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let refuses = at("RunPodSandbox", || Does::Refuse("no pods today"));
        let plugin = Plugin::join(&bed.node, "10", "refuses", refuses).await?;
        let pod = bed.pod("refused");
        let why = cri.run(&pod).await.unwrap_err();
        ensure!(
            why.message().contains("NRI plugin 10-refuses refuses RunPodSandbox: no pods today")
        );
        plugin.hears("RemovePodSandbox").await?;
        assert_eq!(plugin.heard(), ["RunPodSandbox", "StopPodSandbox", "RemovePodSandbox"]);
        drop(plugin);
        bed.is_clean()?;
        let pod = cri.run(&pod).await?;

        let refuses = at("CreateContainer", || Does::Refuse("no containers either"));
        let plugin = Plugin::join(&bed.node, "10", "refuses", refuses).await?;
        let container = Container::idle("a", &busybox());
        let why = cri.create(&pod, &container).await.unwrap_err();
        ensure!(why.message().contains("no containers either"), "{why}");
        plugin.hears("RemoveContainer").await?;
        assert_eq!(plugin.heard(), ["CreateContainer", "StopContainer", "RemoveContainer"]);
        assert_eq!(cri.containers().await?, []);
        drop(plugin);

        let id = cri.create(&pod, &container).await?;
        let refuses = at("StartContainer", || Does::Refuse("nor starts"));
        let plugin = Plugin::join(&bed.node, "10", "refuses", refuses).await?;
        let why = cri.start(&id).await.unwrap_err();
        ensure!(why.message().contains("nor starts"), "{why}");
        plugin.hears("StopContainer").await?;
        Ok(())
    })
}

#[test]
fn what_a_plugin_says_to_an_end_changes_nothing() -> Result<()> {
    on_a_node(async |bed| {
        let (pod, _) = bed.idle("ends").await?;
        let refuses: Behaviour = Arc::new(|call, _| {
            (call.starts_with("Stop") || call.starts_with("Remove")).then_some(Does::Refuse("stay"))
        });
        let plugin = Plugin::join(&bed.node, "10", "stay", refuses).await?;
        bed.cri.clear(&pod.id).await?;
        plugin.hears("RemovePodSandbox").await?;
        Ok(())
    })
}

#[test]
fn one_that_hangs_is_let_go_with_its_reason_and_the_container_is_created() -> Result<()> {
    let config = Config::default().drop_in("nri.toml", "[nri]\nrequest_timeout = \"2s\"");
    on_a_node_with(config, &["busybox"], async |bed| {
        let hangs = at("CreateContainer", || Does::Hang);
        let hanging = Plugin::join(&bed.node, "10", "hangs", hangs).await?;
        let good = Plugin::join(&bed.node, "20", "good", quiet()).await?;
        let pod = bed.cri.run(&bed.pod("hangs")).await?;
        bed.cri.launch(&pod, &Container::idle("a", &busybox())).await?;
        hanging.let_go().await?;
        good.hears("CreateContainer").await?;
        let status = bed.berth(&["status"])?;
        let line = status.lines().find(|line| line.contains("10-hangs")).unwrap_or_default();
        ensure!(line.contains("gone: CreateContainer: it did not answer within 2s"), "{status}");
        ensure!(status.lines().any(|line| line.trim_end() == "nri plugin    20-good"), "{status}");
        Ok(())
    })
}

#[test]
fn one_that_dies_over_a_call_holds_nothing_up() -> Result<()> {
    on_a_node(async |bed| {
        let dies =
            Plugin::join(&bed.node, "10", "dies", at("RunPodSandbox", || Does::Hang)).await?;
        let cri = bed.cri.clone();
        let pod = bed.pod("dies");
        let running = tokio::spawn(async move { cri.run(&pod).await });
        dies.hears("RunPodSandbox").await?;
        // It was never listed meanwhile.
        assert_eq!(bed.cri.pods().await?, []);
        drop(dies);
        running.await??;
        let gone = async || Ok(bed.berth(&["status"])?.contains("10-dies: gone").then_some(()));
        eventually(|| "its end is not shown".to_owned(), gone).await
    })
}

#[test]
fn nonsense_ends_its_own_connection_and_nothing_else() -> Result<()> {
    on_a_node(async |bed| {
        let good = Plugin::join(&bed.node, "10", "good", quiet()).await?;
        let frame = |conn: u32, length: u32| [conn.to_be_bytes(), length.to_be_bytes()].concat();
        let message =
            |length: u32, kind: u8| [&length.to_be_bytes()[..], &[0, 0, 0, 1, kind, 0]].concat();
        for bytes in [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            frame(0, 1),
            frame(9, 0),
            frame(2, u32::MAX),
            [frame(2, 10), message(u32::MAX, 1)].concat(),
            [frame(2, 10), message(0, 7)].concat(),
            [frame(1, 10), message(0, 1)].concat(),
        ] {
            let mut socket = UnixStream::connect(bed.node.path(SOCKET))?;
            socket.write_all(&bytes)?;
            socket.set_read_timeout(Some(std::time::Duration::from_secs(30)))?;
            let mut end = [0; 64];
            ensure!(matches!(std::io::Read::read(&mut socket, &mut end), Ok(0) | Err(_)));
        }
        let (pod, _) = bed.idle("sense").await?;
        assert_eq!(good.hears("RunPodSandbox").await?.pod.id, pod.id);
        Ok(())
    })
}

#[test]
fn a_plugin_that_the_node_requires_must_be_there() -> Result<()> {
    let config = Config::default().drop_in(
        "nri.toml",
        "[nri]\nrequired = [\"needed\"]\ntolerate_missing_annotation = \"do.without\"",
    );
    // A first container, as other tests have one, would not be created.
    on_a_node_with(config, &[], async |bed| {
        push(&mut bed.node, &["busybox"])?;
        bed.cri.pull(&busybox()).await?;
        let plugin = Plugin::join(&bed.node, "10", "needed", quiet()).await?;
        let (first, _) = bed.idle("first").await?;
        bed.cri.clear(&first.id).await?;
        drop(plugin);
        // The first pod's files go after the answer.
        let files = bed.node.path("/var/lib/berth/files");
        let gone = async || Ok((std::fs::read_dir(&files)?.count() == 0).then_some(()));
        eventually(|| "the first pod's files stay".to_owned(), gone).await?;
        bed.settle()?;
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("needs")).await?;
        let container = Container::idle("a", &busybox());
        let why = cri.create(&pod, &container).await.unwrap_err();
        assert_eq!(why.code(), Code::Unavailable);
        ensure!(why.message().contains("required are not connected: needed"), "{why}");
        let plugin = Plugin::join(&bed.node, "10", "needed", quiet()).await?;
        cri.launch(&pod, &container).await?;
        drop(plugin);

        let tolerant = bed.pod("does-without").with(|config| {
            config.annotations.insert("do.without/pod".to_owned(), "true".to_owned());
        });
        let tolerant = cri.run(&tolerant).await?;
        cri.launch(&tolerant, &container).await?;
        Ok(())
    })
}

#[test]
fn a_plugin_that_a_pod_requires_must_be_there() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let needs = bed.pod("needs").with(|config| {
            let key = "required-plugins.noderesource.dev/container.a".to_owned();
            config.annotations.insert(key, "[ \"10-needed\" ]".to_owned());
        });
        let pod = cri.run(&needs).await?;
        let container = Container::idle("a", &busybox());
        let other = Plugin::join(&bed.node, "20", "needed", quiet()).await?;
        for _ in 0..2 {
            let why = cri.create(&pod, &container).await.unwrap_err();
            ensure!(why.message().contains("10-needed"), "{why}");
        }
        // Another container of the pod needs none.
        cri.launch(&pod, &Container::idle("b", &busybox())).await?;
        drop(other);
        let _plugin = Plugin::join(&bed.node, "10", "needed", quiet()).await?;
        cri.launch(&pod, &container).await?;
        Ok(())
    })
}
