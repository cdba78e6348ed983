//! Death and return: of the daemon, of a shim, of the whole node.

use std::time::{Duration, Instant};

use anyhow::Result;
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{busybox, eventually, on_a_node};
use berth_testkit::cri::refused;
use berth_testkit::network;
use berth_testkit::patience::here;
use berth_testkit::specs::Container;
use cri::{ContainerState, PodSandboxState};
use tonic::Code;

#[test]
fn containers_live_on_while_the_daemon_is_dead_and_are_found_again() -> Result<()> {
    on_a_node(async |bed| {
        let (pod, id) = bed.idle("alive").await?;
        let created = bed.cri.create(&pod, &Container::idle("later", &busybox())).await?;
        let before = bed.identity(&id).await?;
        let address = bed.cri.pod_status(&pod.id).await?.network;
        bed.crash().await?;
        assert_eq!(bed.identity(&id).await?, before);
        let status = bed.cri.pod_status(&pod.id).await?;
        assert_eq!(status.state(), PodSandboxState::SandboxReady);
        assert_eq!(status.network, address);
        assert_eq!(bed.cri.shell(&id, "echo works").await?, "works");
        // What was created before the crash can be started after it.
        bed.cri.start(&created).await?;
        assert_eq!(bed.cri.container(&created).await?.state(), ContainerState::ContainerRunning);
        Ok(())
    })
}

#[test]
fn sigterm_stops_the_daemon_and_nothing_else() -> Result<()> {
    on_a_node(async |bed| {
        let (_, id) = bed.idle("calm").await?;
        let before = bed.identity(&id).await?;
        bed.node.stop_daemon()?;
        assert!(bed.node.path(&format!("/proc/{}", before.0)).exists());
        bed.start().await?;
        assert_eq!(bed.identity(&id).await?, before);
        Ok(())
    })
}

#[test]
fn an_exit_that_the_daemon_missed_is_told_after_its_return() -> Result<()> {
    on_a_node(async |bed| {
        let pod = bed.cri.run(&bed.pod("missed")).await?;
        let go = bed.node.disk().join("go");
        std::fs::create_dir_all(&go)?;
        let container = Container::new("a", &busybox())
            .shell("until [ -e /go/now ]; do usleep 10000; done; echo last words; exit 9")
            .mount(&go, "/go");
        let id = bed.cri.launch(&pod, &container).await?;
        let pid = bed.pid(&id).await?;
        bed.node.kill_daemon()?;
        std::fs::write(go.join("now"), "")?;
        eventually(
            || "the container goes on".to_owned(),
            async || Ok((!bed.node.path(&format!("/proc/{pid}")).exists()).then_some(())),
        )
        .await?;
        bed.start().await?;
        let status = bed.cri.exited(&id).await?;
        assert_eq!((status.exit_code, status.reason.as_str()), (9, "Error"));
        assert!(status.finished_at >= status.started_at && status.started_at > 0);
        assert!(bed.log("missed")?.contains("last words"));
        Ok(())
    })
}

#[test]
fn a_container_whose_shim_dies_is_dead_and_its_pod_not_ready() -> Result<()> {
    on_a_node(async |bed| {
        let (pod, id) = bed.idle("shimless").await?;
        let pid = bed.pid(&id).await?;
        let (other, bystander) = bed.idle("other").await?;
        let untouched = bed.identity(&bystander).await?;
        bed.kill_shim_of(&pod.id)?;
        let status = bed.cri.exited(&id).await?;
        assert_eq!(status.exit_code, 255);
        assert!(!status.reason.is_empty());
        assert!(bed.is_dead(pid), "its process is dead, too");
        let state = bed.cri.pod_status(&pod.id).await?.state();
        assert_eq!(state, PodSandboxState::SandboxNotready);
        assert_eq!(bed.identity(&bystander).await?, untouched);
        assert_eq!(bed.cri.pod_status(&other.id).await?.state(), PodSandboxState::SandboxReady);
        bed.cri.clear(&pod.id).await?;
        Ok(())
    })
}

#[test]
fn a_shim_that_died_with_the_daemon_is_noticed_first_thing() -> Result<()> {
    on_a_node(async |bed| {
        let (pod, id) = bed.idle("both").await?;
        let pid = bed.pid(&id).await?;
        bed.node.kill_daemon()?;
        bed.kill_shim_of(&pod.id)?;
        bed.start().await?;
        let status = bed.cri.exited(&id).await?;
        assert_eq!(status.exit_code, 255);
        assert!(bed.is_dead(pid), "its process is dead, too");
        bed.cri.clear(&pod.id).await?;
        Ok(())
    })
}

#[test]
fn after_a_reboot_pods_are_listed_as_dead_until_they_are_removed() -> Result<()> {
    on_a_node(async |bed| {
        let pod = bed.cri.run(&bed.pod("old").port(8081, 80)).await?;
        let id = bed.cri.launch(&pod, &Container::idle("a", &busybox())).await?;
        bed.node.reboot()?;
        bed.start().await?;
        let status = bed.cri.pod_status(&pod.id).await?;
        assert_eq!(status.state(), PodSandboxState::SandboxNotready);
        let status = bed.cri.container(&id).await?;
        assert_eq!(status.state(), ContainerState::ContainerExited);
        assert_eq!(status.exit_code, 255);
        assert!(std::path::Path::new(&status.log_path).exists());

        // The address is given back by the plugins, from what Berth remembers of the ADD.
        bed.cri.stop_pod(&pod.id).await?;
        let leases = bed.node.run("sh", &["-c", "ls /var/lib/cni/networks/testnet"])?;
        assert!(!leases.contains("198.18"), "{leases}");
        bed.cri.remove_pod(&pod.id).await?;
        assert!(bed.cri.pods().await?.is_empty());

        // And the node works: the image is whole.
        let (_, id) = bed.idle("new").await?;
        assert_eq!(bed.cri.shell(&id, "echo works").await?, "works");
        Ok(())
    })
}

#[test]
fn the_daemon_answers_soon_after_a_crash_with_twenty_pods() -> Result<()> {
    on_a_node(async |bed| {
        let mut calls = tokio::task::JoinSet::new();
        for number in 0..20 {
            let (cri, pod) = (bed.cri.clone(), bed.pod(&format!("p{number}")));
            calls.spawn(async move {
                let pod = cri.run(&pod).await?;
                cri.launch(&pod, &Container::idle("a", &busybox())).await
            });
        }
        let ids: Vec<_> = calls.join_all().await.into_iter().collect::<Result<_, _>>()?;
        bed.node.kill_daemon()?;
        let start = Instant::now();
        bed.start().await?;
        let listed = bed.cri.containers().await?;
        let took = start.elapsed();
        assert_eq!(listed.len(), ids.len());
        assert!(listed.iter().all(|one| one.state() == ContainerState::ContainerRunning));
        assert!(took < here(Duration::from_secs(3)), "{took:?}");
        Ok(())
    })
}

#[test]
fn a_second_daemon_is_refused_and_the_first_goes_on() -> Result<()> {
    on_a_node(async |bed| {
        let mut second = bed.node.config().daemon()?;
        let error = bed
            .node
            .place()?
            .visit(|| network::run(&mut second, b""))
            .expect_err("two daemons would both own every pod");
        assert!(error.to_string().contains("lock"), "{error:#}");
        bed.cri.version().await?;
        Ok(())
    })
}

#[test]
fn a_configuration_with_an_unknown_key_is_refused_with_its_place() -> Result<()> {
    on_a_node(async |bed| {
        bed.node.reconfigure(|config| {
            *config = config.clone().drop_in("50-typo.toml", "[log]\nlevle = \"info\"\n");
        })?;
        let mut check = bed.node.config().program()?;
        check.args(["config", "check"]);
        let error = bed
            .node
            .place()?
            .visit(|| network::run(&mut check, b""))
            .expect_err("the key is misspelt");
        let text = format!("{error:#}");
        assert!(text.contains("levle") && text.contains("50-typo.toml"), "{text}");
        bed.node.kill_daemon()?;
        assert!(bed.node.start_daemon().is_err());
        let fixed = "[log]\nlevel = \"info\"\n";
        bed.node.reconfigure(|config| {
            *config = config.clone().drop_in("50-typo.toml", fixed);
        })?;
        bed.start().await
    })
}

#[test]
fn a_corrupt_record_file_is_set_aside_and_the_daemon_comes_up() -> Result<()> {
    on_a_node(async |bed| {
        let (pod, id) = bed.idle("lost").await?;
        bed.node.kill_daemon()?;
        let disk = bed.node.path("/var/lib/berth/pods.db");
        for end in ["", "-wal"] {
            let path = format!("{}{end}", disk.display());
            if std::path::Path::new(&path).exists() {
                std::fs::write(&path, "this is no database, and never was one\n".repeat(400))?;
            }
        }
        bed.start().await?;
        // Rebuilt from bundles and shims, or gone without a trace: never half there.
        let known = bed.cri.pods().await?;
        if known.is_empty() {
            assert_eq!(refused(bed.cri.container(&id).await), Code::NotFound);
        } else {
            assert_eq!(known[0].id, pod.id);
            bed.cri.clear(&pod.id).await?;
        }
        let kept = std::fs::read_dir(bed.node.path("/var/lib/berth"))?.flatten();
        let names = kept.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let aside = |name: &String| name.starts_with("pods.db") && name.contains("corrupt");
        let aside: Vec<_> = names.filter(aside).collect();
        assert!(!aside.is_empty(), "the corrupt file is kept for a look");
        for name in aside {
            std::fs::remove_file(bed.node.path(&format!("/var/lib/berth/{name}")))?;
        }
        Ok(())
    })
}
