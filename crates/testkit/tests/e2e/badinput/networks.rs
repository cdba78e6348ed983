//! CNI configurations that are none.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use berth_testkit::bed::{Bed, busybox, eventually, on_a_node, on_a_node_with};
use berth_testkit::config::Config;
use berth_testkit::specs::{Container, Pod};
use tonic::Code;

use super::{refuses, the_next_pod_is_fine};

/// A file's text, and words of the reason why it is passed over.
const LISTS: [(&str, &[&str]); 13] = [
    ("", &["not a JSON object"]),
    ("{", &["not a JSON object"]),
    ("[]", &["not a JSON object"]),
    ("\u{feff}\0", &["not a JSON object"]),
    (r#"{"cniVersion": "1.0.0", "plugins": [{"type": "bridge"}]}"#, &["no \"name\""]),
    (r#"{"cniVersion": "1.0.0", "name": "../x", "plugins": []}"#, &["must start"]),
    (r#"{"cniVersion": "1.0.0", "name": "x"}"#, &["\"plugins\" is not a list"]),
    (r#"{"cniVersion": "1.0.0", "name": "x", "plugins": []}"#, &["is empty"]),
    (r#"{"cniVersion": "9.9.9", "name": "x", "plugins": [{"type": "bridge"}]}"#, &["9.9.9"]),
    (r#"{"cniVersion": 1, "name": "x", "plugins": [{"type": "bridge"}]}"#, &["not a string"]),
    (r#"{"cniVersion": "1.0.0", "name": "x", "plugins": [5]}"#, &["plugin 1", "not an object"]),
    (
        r#"{"cniVersion": "1.0.0", "name": "x", "plugins": [{"type": "../../bin/sh"}]}"#,
        &["plugin 1", "not the name of an executable"],
    ),
    (
        r#"{"cniVersion": "1.0.0", "name": "x", "plugins": [{"type": "a", "capabilities": 1}]}"#,
        &["capabilities"],
    ),
];

#[test]
fn a_network_s_configuration_that_is_none_leaves_the_node_s_own_network() -> Result<()> {
    let config = Config::default().without_network();
    on_a_node_with(config, &["busybox"], async |bed| {
        let file = file(bed)?;
        for (text, words) in LISTS {
            fs::write(&file, text)?;
            not_ready(bed, words).await?;
        }
        fs::write(&file, vec![b' '; 2 << 20])?;
        not_ready(bed, &["larger"]).await?;
        fs::remove_file(&file)?;
        fs::create_dir(&file)?;
        not_ready(bed, &["not a regular file"]).await?;
        fs::remove_dir(&file)?;
        // A fifo that nobody writes to: who opens it waits.
        bed.node.run("mkfifo", &["/etc/cni/net.d/10-case.conflist"])?;
        not_ready(bed, &["not a regular file"]).await?;
        fs::remove_file(&file)?;
        std::os::unix::fs::symlink("/nowhere", &file)?;
        not_ready(bed, &["No such file"]).await?;
        fs::remove_file(&file)?;
        not_ready(bed, &["holds no .conflist"]).await?;
        // Pods on the node's network need none of it.
        let pod = bed.cri.run(&Pod::new("host").host_network()).await?;
        let id = bed.cri.launch(&pod, &Container::idle("a", &busybox())).await?;
        assert_eq!(bed.cri.shell(&id, "echo runs").await?, "runs");
        bed.cri.clear(&pod.id).await?;
        bed.is_clean()
    })
}

/// Where the node's configuration would be.
fn file(bed: &Bed) -> Result<PathBuf> {
    let dir = bed.node.path("/etc/cni/net.d");
    fs::create_dir_all(&dir)?;
    Ok(dir.join("10-case.conflist"))
}

/// Demands that a pod is refused for this reason, and that Status soon says the same.
async fn not_ready(bed: &Bed, words: &[&str]) -> Result<()> {
    let answer = bed.cri.run(&bed.pod("unconnected")).await;
    let wanted: Vec<_> = words.iter().copied().chain(["/etc/cni/net.d"]).collect();
    refuses("a pod", answer, (Code::Unavailable, &wanted))?;
    eventually(
        || format!("NetworkReady does not say {words:?}"),
        async || {
            let status = bed.cri.status().await?.status.context("a status")?;
            let network = status.conditions.into_iter().find(|c| c.r#type == "NetworkReady");
            let network = network.context("a condition NetworkReady")?;
            let said = words.iter().all(|word| network.message.contains(word));
            Ok((!network.status && !network.reason.is_empty() && said).then_some(()))
        },
    )
    .await
}

#[test]
fn a_configuration_that_vanishes_keeps_no_pod_from_being_let_go() -> Result<()> {
    on_a_node(async |bed| {
        let (pod, _) = bed.idle("attached").await?;
        let list = bed.node.path("/etc/cni/net.d/10-testnet.conflist");
        let away = list.with_extension("away");
        fs::rename(&list, &away)?;
        refuses("late", bed.cri.run(&bed.pod("late")).await, (Code::Unavailable, &["net.d"]))?;
        bed.cri.clear(&pod.id).await?;
        // Detached by what was kept of its ADD: nothing is left over.
        let status = bed.berth(&["status", "--json"])?;
        assert!(status.contains("\"leftovers\": []") || status.contains("\"leftovers\":[]"));
        bed.is_clean()?;
        fs::rename(&away, &list)?;
        the_next_pod_is_fine(bed).await
    })
}
