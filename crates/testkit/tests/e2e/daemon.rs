//! What an operator sees: status, metrics, the log, and Berth's own command line.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result};
use berth_testkit::bed::{eventually, on_a_node};
use berth_testkit::http::Request;

#[test]
fn the_socket_is_for_root_and_its_group_alone() -> Result<()> {
    on_a_node(async |bed| {
        let mode = fs::metadata(bed.node.socket())?.permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        Ok(())
    })
}

#[test]
fn status_shows_pods_with_their_holdings() -> Result<()> {
    on_a_node(async |bed| {
        let (pod, id) = bed.idle("shown").await?;
        let text = bed.berth(&["status"])?;
        assert!(text.contains("shown") && text.contains(&pod.id[..12]), "{text}");
        let status: serde_json::Value = serde_json::from_str(&bed.berth(&["status", "--json"])?)?;
        let pods = status["pods"].as_array().context("pods in the status")?;
        assert_eq!(pods.len(), 1);
        let shown = pods[0].to_string();
        for word in [pod.id.as_str(), id.as_str(), "network", "shim", "task"] {
            assert!(shown.contains(word), "{word} in {shown}");
        }
        Ok(())
    })
}

#[test]
fn metrics_are_served_and_count() -> Result<()> {
    on_a_node(async |bed| {
        let (pod, _) = bed.idle("counted").await?;
        let address = "127.0.0.1:9733".parse()?;
        let get = || {
            let answer =
                bed.node.place()?.visit(|| Request::new("GET", "/metrics").send(address))?;
            anyhow::Ok(answer.expect(&[200])?.text())
        };
        let text = get()?;
        assert!(text.contains("# TYPE berth_"), "{text}");
        let mut pods = text.lines().filter(|line| line.starts_with("berth_pods{"));
        assert!(pods.any(|line| line.ends_with(" 1")), "{text}");
        bed.cri.clear(&pod.id).await?;
        eventually(
            || "the pod is still counted".to_owned(),
            async || {
                let text = get()?;
                let mut lines = text.lines().filter(|line| line.starts_with("berth_pods"));
                Ok(lines.all(|line| line.ends_with(" 0")).then_some(()))
            },
        )
        .await
    })
}

#[test]
fn every_line_about_a_pod_names_it() -> Result<()> {
    on_a_node(async |bed| {
        let (pod, id) = bed.idle("named").await?;
        let log = fs::read_to_string(bed.node.log())?;
        let points: Vec<_> =
            log.lines().filter(|line| berth_testkit::crash::point(line).is_some()).collect();
        assert!(!points.is_empty());
        for line in &points {
            assert!(line.contains("pod=") || line.contains("container="), "{line}");
        }
        assert!(points.iter().any(|line| line.contains(&pod.id[..12])));
        assert!(points.iter().any(|line| line.contains(&id[..12])));
        Ok(())
    })
}
