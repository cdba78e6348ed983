//! Runtime handlers: broken ones, changed and removed ones, those that are found.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{Bed, busybox, eventually, on_a_node, on_a_node_with};
use berth_testkit::config::Config;
use berth_testkit::cri::{Answer, RunningPod};
use berth_testkit::http::Request;
use berth_testkit::specs::Container;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tonic::Code;

use crate::badworld::executable;

/// The drop-in with the handlers of a test.
const FILE: &str = "50-handlers.toml";

/// A second handler in order, by the OCI runtime that the default one does not use.
const SECOND: &str = "[handlers.second]\nruntime = \"runc\"\n";

fn with(text: &str) -> Config {
    Config::default().drop_in(FILE, text)
}

fn configure(bed: &mut Bed, text: &str) -> Result<()> {
    bed.node.reconfigure(|config| *config = config.clone().drop_in(FILE, text))
}

/// A pod by a handler, with one idle container.
async fn idle(bed: &Bed, name: &str, handler: &str) -> Result<(RunningPod, String)> {
    let pod = bed.cri.run(&bed.pod(name).by(handler)).await?;
    let id = bed.cri.launch(&pod, &Container::idle("main", &busybox())).await?;
    Ok((pod, id))
}

/// Which OCI runtime a pod's containers are kept by: it has a directory for each in its root.
fn kept_by(bed: &Bed, root: &str, container: &str) -> bool {
    bed.node.path(root).join(container).exists()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Answer<T>, code: Code, words: &[&str]) {
    let status = answer.expect_err("this call should have been refused");
    assert_eq!(status.code(), code, "{status}");
    for word in words {
        assert!(status.message().contains(word), "no {word:?} in {status}");
    }
}

async fn condition(bed: &Bed, name: &str) -> Result<cri::RuntimeCondition> {
    let status = bed.cri.status().await?.status.context("a status")?;
    let found = status.conditions.into_iter().find(|condition| condition.r#type == name);
    found.with_context(|| format!("a condition {name}"))
}

/// The handlers that Status says pods can be begun with.
async fn usable(bed: &Bed) -> Result<Vec<String>> {
    let handlers = bed.cri.status().await?.runtime_handlers;
    Ok(handlers.into_iter().map(|handler| handler.name).collect())
}

/// Waits until a handler is there, or is not.
async fn becomes(bed: &Bed, name: &str, there: bool) -> Result<()> {
    eventually(
        || format!("{name} does not come or go"),
        async || Ok((usable(bed).await?.iter().any(|one| one == name) == there).then_some(())),
    )
    .await
}

/// What `berth config check` says when it is not content.
fn faults(bed: &Bed) -> Result<String> {
    match bed.berth(&["config", "check"]) {
        Ok(said) => anyhow::bail!("it is content: {said}"),
        Err(why) => Ok(format!("{why:#}")),
    }
}

#[test]
fn a_broken_handler_is_shown_and_refuses_its_pods_and_the_others_go_on() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let silent = dir.path().join("silent");
    executable(&silent, "#!/bin/sh\necho out of order >&2\nexit 3\n")?;
    let text = format!(
        "{SECOND}[handlers.no-shim]\nshim = \"io.containerd.none.v9\"\n\
         [handlers.no-runtime]\nruntime = \"/no/runc\"\n\
         [handlers.silent]\nruntime = {silent:?}\n\
         [handlers.no-spec]\nbase_spec = \"/no/spec.json\"\n"
    );
    let cases: [(&str, &[&str]); 4] = [
        ("no-shim", &["containerd-shim-none-v9", "install it"]),
        ("no-runtime", &["/no/runc", "install it"]),
        ("silent", &["--version", "out of order"]),
        ("no-spec", &["cannot read /no/spec.json"]),
    ];
    on_a_node_with(with(&text), &["busybox"], async |bed| {
        assert!(condition(bed, "RuntimeReady").await?.status);
        let shown = condition(bed, "HandlersReady").await?;
        assert!(!shown.status && shown.reason == "HandlerBroken");
        let page = bed.berth(&["status"])?;
        let metrics = Request::new("GET", "/metrics");
        let address = "127.0.0.1:9733".parse()?;
        let metrics = bed.node.place()?.visit(|| metrics.send(address))?.text();
        ensure!(metrics.contains("berth_handlers{state=\"broken\"} 4\n"), "{metrics}");
        let said = faults(bed)?;
        let details = bed.cri.status().await?.info;
        let handlers: Value = serde_json::from_str(details.get("handlers").context("handlers")?)?;
        for (name, words) in cases {
            refused(
                bed.cri.run(&bed.pod("refused").by(name)).await,
                Code::FailedPrecondition,
                words,
            );
            let entry = handlers.as_array().into_iter().flatten().find(|one| one["name"] == name);
            let broken = entry.and_then(|one| one["broken"].as_str()).context("a reason")?;
            for word in words.iter().chain(&[name]) {
                ensure!(shown.message.contains(word), "no {word:?} in {}", shown.message);
                ensure!(page.contains(word), "no {word:?} in {page}");
                ensure!(said.contains(word), "no {word:?} in {said}");
            }
            ensure!(broken.contains(words[0]), "{broken}");
        }
        ensure!(said.contains(&format!("{FILE}:4: handlers.no-shim.shim")), "{said}");
        assert_eq!(usable(bed).await?, ["", "berth", "second"]);
        for (name, handler) in [("one", ""), ("two", "second")] {
            let (_, id) = idle(bed, name, handler).await?;
            assert_eq!(bed.cri.shell(&id, "echo works").await?, "works");
        }
        assert_eq!(bed.cri.pods().await?.len(), 2, "a refused pod is not listed");
        Ok(())
    })
}

#[test]
fn a_node_whose_handlers_are_all_broken_says_so_and_mends_without_a_restart() -> Result<()> {
    let broken = "[handlers.berth]\nruntime = \"/no/runc\"\n";
    on_a_node(async |bed| {
        let (_, id) = bed.idle("before").await?;
        bed.node.stop_daemon()?;
        // Another table, so that nothing is looked for on PATH.
        configure(bed, &format!("{broken}[handlers.b]\nruntime = \"/no/runc\"\n"))?;
        bed.start().await?;
        let shown = condition(bed, "RuntimeReady").await?;
        assert!(!shown.status && shown.message.contains("/no/runc"), "{shown:?}");
        // What runs is not touched, and ends by what it was begun with.
        assert_eq!(bed.cri.shell(&id, "echo works").await?, "works");
        bed.cri.clear_all().await?;
        configure(bed, "")?;
        becomes(bed, "berth", true).await?;
        assert!(condition(bed, "RuntimeReady").await?.status);
        bed.idle("after").await.map(drop)
    })
}

#[test]
fn handlers_follow_their_files_and_pods_keep_what_they_were_begun_with() -> Result<()> {
    on_a_node_with(with(""), &["busybox"], async |bed| {
        let daemon = bed.node.daemon().context("a daemon")?;
        let hang_up = || kill(Pid::from_raw(daemon.cast_signed()), Signal::SIGHUP);
        configure(bed, SECOND)?;
        hang_up()?;
        becomes(bed, "second", true).await?;
        let (pod, id) = idle(bed, "one", "second").await?;
        assert!(kept_by(bed, "/run/berth/oci/second", &id));

        // Changed: the pod stays where it was, a new one goes where it is now.
        configure(bed, &format!("{SECOND}runtime_root = \"/run/moved\"\n[handlers.third]\n"))?;
        becomes(bed, "third", true).await?;
        let more = bed.cri.launch(&pod, &Container::idle("more", &busybox())).await?;
        assert!(kept_by(bed, "/run/berth/oci/second", &more));
        let (moved, other) = idle(bed, "two", "second").await?;
        assert!(kept_by(bed, "/run/moved", &other));
        bed.cri.clear(&moved.id).await?;

        // Wrong: the old one stays, and it is told.
        configure(bed, "[handlers.second]\nshim = 5\n")?;
        hang_up()?;
        eventually(
            || "a wrong configuration is not told".to_owned(),
            async || {
                let log = fs::read_to_string(bed.node.log())?;
                Ok(log.contains("configuration not taken").then_some(()))
            },
        )
        .await?;
        assert!(usable(bed).await?.iter().any(|name| name == "third"));

        // Removed, without a signal.
        configure(bed, "[handlers.third]\n")?;
        becomes(bed, "second", false).await?;
        refused(
            bed.cri.run(&bed.pod("three").by("second")).await,
            Code::InvalidArgument,
            &["second"],
        );
        assert_eq!(bed.cri.shell(&id, "echo works").await?, "works");
        bed.cri.launch(&pod, &Container::idle("last", &busybox())).await?;
        bed.cri.clear(&pod.id).await?;
        // What is gone and has no pods leaves nothing behind, or the census finds it.
        configure(bed, "")?;
        becomes(bed, "third", false).await?;
        fs::remove_dir_all(bed.node.path("/run/moved"))?;
        Ok(())
    })
}

#[test]
fn pods_of_a_removed_handler_stop_and_are_removed_after_a_restart_too() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let shim = dir.path().join("containerd-shim-berth-v1");
    let real = berth_testkit::paths::small()?.join("containerd-shim-berth-v1");
    fs::copy(&real, &shim)?;
    let text = format!("{SECOND}shim = {shim:?}\nruntime_root = \"/run/second\"\n");
    on_a_node_with(with(&text), &["busybox"], async |bed| {
        let (stays, id) = idle(bed, "stays", "second").await?;
        let (dies, dead) = idle(bed, "dies", "second").await?;
        let (killed, _) = idle(bed, "killed", "second").await?;
        bed.node.kill_daemon()?;
        configure(bed, "")?;
        bed.start().await?;
        assert!(!usable(bed).await?.iter().any(|name| name == "second"));
        assert_eq!(bed.cri.shell(&id, "echo works").await?, "works");
        let more = bed.cri.launch(&stays, &Container::idle("more", &busybox())).await?;
        assert!(kept_by(bed, "/run/second", &more));
        bed.cri.stop_pod(&stays.id).await?;
        bed.cri.remove_pod(&stays.id).await?;

        // Its binary cleans up after a shim that was killed.
        bed.kill_shim_of(&dies.id)?;
        assert_eq!(bed.cri.exited(&dead).await?.exit_code, 255);
        bed.cri.clear(&dies.id).await?;

        bed.node.kill_daemon()?;
        bed.kill_shim_of(&killed.id)?;
        bed.start().await?;
        bed.cri.clear(&killed.id).await?;
        assert!(bed.cri.pods().await?.is_empty());
        // Nobody needs what they were begun with any more.
        let kept: Vec<_> = fs::read_dir(bed.node.path("/run/berth/handlers"))?.flatten().collect();
        for file in &kept {
            let text = fs::read_to_string(file.path())?;
            ensure!(!text.contains("/run/second"), "{text}");
        }
        configure(bed, &text)?;
        becomes(bed, "second", true).await
    })
}

#[test]
fn what_is_installed_is_offered_while_nothing_is_configured() -> Result<()> {
    on_a_node(async |bed| {
        let names = usable(bed).await?;
        assert_eq!(names[..2], ["", "berth"]);
        for runtime in ["crun", "runc"] {
            assert!(names.iter().any(|name| name == runtime), "{names:?}");
            let (pod, id) = idle(bed, runtime, runtime).await?;
            assert_eq!(bed.cri.shell(&id, "echo works").await?, "works");
            assert!(kept_by(bed, &format!("/run/berth/oci/{runtime}"), &id));
            bed.cri.clear(&pod.id).await?;
        }
        configure(bed, SECOND)?;
        becomes(bed, "runc", false).await?;
        assert_eq!(usable(bed).await?, ["", "berth", "second"]);
        configure(bed, "")?;
        becomes(bed, "runc", true).await
    })
}

#[test]
fn a_handler_that_runs_no_privileged_pods_refuses_them_and_says_why() -> Result<()> {
    let text = "[handlers.strict]\nprivileged = false\n";
    on_a_node_with(with(text), &["busybox"], async |bed| {
        let privileged = |name: &str| bed.pod(name).security(|security| security.privileged = true);
        let words = ["strict", "privileged", "[handlers.strict]"];
        let answer = bed.cri.run(&privileged("refused").by("strict")).await;
        refused(answer, Code::PermissionDenied, &words);
        bed.cri.run(&privileged("allowed")).await?;
        idle(bed, "plain", "strict").await?;
        assert_eq!(bed.cri.pods().await?.len(), 2);
        Ok(())
    })
}

#[test]
fn a_handler_has_a_base_spec_passes_annotations_on_and_looks_for_its_own_network() -> Result<()> {
    let base = serde_json::json!({
        "process": {
            "env": ["FROM=base", "PATH=/nowhere"],
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 99}],
            "capabilities": {"bounding": ["CAP_SYS_ADMIN"]},
        },
    });
    let text = "[handlers.based]\nbase_spec = \"/etc/base.json\"\n\
                pod_annotations = [\"io.katacontainers.*\"]\ncontainer_annotations = [\"*.example/?pu\"]\n\
                [handlers.elsewhere]\ncni_conf_dir = \"/etc/elsewhere.d\"\n";
    let config = with(text).file("base.json", &base.to_string());
    on_a_node_with(config, &["busybox"], async |bed| {
        let pod = bed.pod("based").by("based").with(|config| {
            for name in ["io.katacontainers.x", "io.other.x"] {
                config.annotations.insert(name.to_owned(), "pod".to_owned());
            }
        });
        let pod = bed.cri.run(&pod).await?;
        let container = Container::idle("main", &busybox()).with(|config| {
            for name in ["team.example/cpu", "team.example/gpu2"] {
                config.annotations.insert(name.to_owned(), "container".to_owned());
            }
        });
        let id = bed.cri.launch(&pod, &container).await?;
        assert_eq!(
            bed.cri.shell(&id, "cat /proc/1/environ | tr '\\0' '\\n' | grep FROM").await?,
            "FROM=base"
        );
        assert_eq!(bed.cri.shell(&id, "ulimit -n; ulimit -Hn").await?, "77\n99");
        let details = bed.cri.container_details(&id).await?;
        let info: Value = serde_json::from_str(details.info.get("info").context("info")?)?;
        let spec = &info["runtimeSpec"];
        assert!(!spec["process"]["capabilities"].to_string().contains("SYS_ADMIN"));
        let annotations = &spec["annotations"];
        assert_eq!(annotations["io.katacontainers.x"], "pod");
        assert_eq!(annotations["team.example/cpu"], "container");
        for name in ["io.other.x", "team.example/gpu2"] {
            assert!(annotations.get(name).is_none(), "{annotations}");
        }

        let answer = bed.cri.run(&bed.pod("unconnected").by("elsewhere")).await;
        refused(answer, Code::Unavailable, &["/etc/elsewhere.d"]);
        copy_network(bed, Path::new("/etc/elsewhere.d"))?;
        let (pod, _) = idle(bed, "connected", "elsewhere").await?;
        let status = bed.cri.pod_status(&pod.id).await?;
        assert!(!status.network.context("a network")?.ip.is_empty());
        Ok(())
    })
}

/// The node's own network, configured in another directory too.
fn copy_network(bed: &Bed, to: &Path) -> Result<()> {
    let to = bed.node.path(&to.display().to_string());
    fs::create_dir_all(&to)?;
    let from = bed.node.path("/etc/cni/net.d/10-testnet.conflist");
    fs::copy(from, to.join("10-testnet.conflist")).context("copy the network")?;
    Ok(())
}
