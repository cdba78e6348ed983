//! Volumes whose server does not answer any more: what touches them waits in the kernel, and
//! cannot be killed.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{Bed, busybox, eventually, on_a_node_with};
use berth_testkit::config::Config;
use berth_testkit::cri::in_time;
use berth_testkit::fuse::FILE;
use berth_testkit::place::Guest;
use berth_testkit::specs::Container;
use tonic::Code;

use super::{error, next_pod_is_fine, nothing_left_over, says};

/// A mounted file system, and the switch that silences its server.
struct Volume {
    server: Option<Guest>,
    at: PathBuf,
    silent: PathBuf,
}

impl Volume {
    /// Mounts it in the node; a silent one has not even said hello.
    fn mount(bed: &Bed, name: &str, silent: bool) -> Result<Self> {
        let at = bed.node.disk().join("volumes").join(name);
        let lever = bed.node.disk().join("volumes").join(format!("{name}.silent"));
        std::fs::create_dir_all(&at)?;
        if silent {
            std::fs::write(&lever, "")?;
        }
        let program = berth_testkit::paths::testkit()?;
        let mut server = bed.node.place()?.visit(|| {
            let mut command = Command::new(&program);
            command.arg("fuse").arg(&at).arg(&lever).stdout(Stdio::piped()).stdin(Stdio::null());
            command.spawn().map(Guest).context("start the volume's server")
        })?;
        let mut line = String::new();
        let stdout = server.0.stdout.take().context("its stdout")?;
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line == "mounted\n", "the volume was not mounted");
        Ok(Self { server: Some(server), at, silent: lever })
    }

    /// From now on it answers nothing.
    fn silence(&self) -> Result<()> {
        std::fs::write(&self.silent, "").context("silence the volume")
    }

    /// Ends the server: whoever waits for it gets an error. Then nothing is mounted.
    fn end(&mut self, bed: &Bed) -> Result<()> {
        self.server = None;
        self.unmount(bed)
    }

    /// Takes it away from the node; whoever has it mounted elsewhere keeps it.
    fn unmount(&self, bed: &Bed) -> Result<()> {
        bed.node.run("umount", &["-l", &self.at.display().to_string()]).map(drop)
    }
}

fn on_a_node_with_short_mounts(test: impl AsyncFnOnce(&mut Bed) -> Result<()>) -> Result<()> {
    let config = Config::default().drop_in("50-mount.toml", "[deadlines]\nmount = \"2s\"\n");
    on_a_node_with(config, &["busybox"], test)
}

#[test]
fn a_volume_that_does_not_answer_fails_its_container_and_holds_up_nothing_else() -> Result<()> {
    on_a_node_with_short_mounts(async |bed| {
        let (pod, bystander) = bed.idle("volume").await?;
        for (name, from_the_beginning) in [("deaf", true), ("dead", false)] {
            let mut volume = Volume::mount(bed, name, from_the_beginning)?;
            volume.silence()?;
            let container = Container::idle(name, &busybox()).mount(&volume.at, "/volume");
            let begin = Instant::now();
            let (cri, of) = (bed.cri.clone(), pod.clone());
            let call = tokio::spawn(async move { cri.create(&of, &container).await });
            // Lists, commands and other containers go on meanwhile.
            assert_eq!(bed.cri.pods().await?.len(), 1);
            assert_eq!(bed.cri.shell(&bystander, "echo works").await?, "works");
            let path = volume.at.display().to_string();
            says(call.await?, Code::DeadlineExceeded, &[&path]);
            assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());

            // Whoever looked at it still waits in the kernel: the daemon can die and come back.
            bed.crash().await?;
            assert_eq!(bed.cri.containers().await?.len(), 1);
            assert_eq!(bed.cri.shell(&bystander, "echo works").await?, "works");
            volume.end(bed)?;
            std::fs::remove_file(&volume.silent)?;
        }
        bed.cri.clear(&pod.id).await?;
        next_pod_is_fine(bed, "solid").await
    })
}

#[test]
fn a_container_whose_volume_dies_is_named_until_it_can_be_killed() -> Result<()> {
    on_a_node_with_short_mounts(async |bed| {
        let (other, bystander) = bed.idle("other").await?;
        let mut volume = Volume::mount(bed, "dies", false)?;
        let pod = bed.cri.run(&bed.pod("reader")).await?;
        let line = format!(
            "cat /volume/{FILE}; echo has read; until [ -e /go ]; do usleep 10000; done; \
             cat /volume/{FILE}"
        );
        let container = Container::new("a", &busybox()).shell(&line).mount(&volume.at, "/volume");
        let id = bed.cri.launch(&pod, &container).await?;
        bed.log_says("reader", "has read").await?;
        volume.silence()?;
        bed.cri.shell(&id, "touch /go").await?;
        let reader = reader(bed).await?;

        let status = error(bed.cri.stop(&id, 1).await);
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        for part in [format!("pid {reader}"), "state D".to_owned()] {
            assert!(status.message().contains(&part), "no {part:?} in {status}");
        }
        assert_eq!(bed.cri.containers().await?.len(), 2);
        assert_eq!(bed.cri.shell(&bystander, "echo works").await?, "works");
        next_pod_is_fine(bed, "meanwhile").await?;

        volume.end(bed)?;
        bed.cri.stop(&id, 0).await?;
        bed.cri.clear(&pod.id).await?;
        bed.cri.clear(&other.id).await?;
        next_pod_is_fine(bed, "after").await
    })
}

#[test]
fn a_volume_that_is_silent_while_the_runtime_mounts_it_holds_up_its_own_pod_alone() -> Result<()> {
    on_a_node_with_short_mounts(async |bed| {
        let (other, bystander) = bed.idle("other").await?;
        let mut volume = Volume::mount(bed, "mute", false)?;
        let pod = bed.cri.run(&bed.pod("mute")).await?;
        let container = Container::idle("a", &busybox()).mount(volume.at.join(FILE), "/file");
        // Whoever looks first gets an answer; the runtime that mounts it does not.
        let id = bed.cri.create(&pod, &container).await?;
        volume.silence()?;
        let (cri, of) = (bed.cri.clone(), id.clone());
        let start = tokio::spawn(async move { cri.start(&of).await });
        let stuck = waiting(bed, "crun").await?;
        assert_eq!(bed.cri.shell(&bystander, "echo works").await?, "works");
        next_pod_is_fine(bed, "meanwhile").await?;

        // The daemon can die and come back, and says who is in the way of a stop.
        bed.crash().await?;
        start.await?.expect_err("its daemon died");
        assert_eq!(bed.cri.pods().await?.len(), 2);
        let status = error(bed.cri.stop_pod(&pod.id).await);
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        for part in [format!("pid {stuck}"), "state D".to_owned()] {
            assert!(status.message().contains(&part), "no {part:?} in {status}");
        }
        assert_eq!(bed.cri.shell(&bystander, "echo works").await?, "works");

        volume.end(bed)?;
        bed.cri.clear(&pod.id).await?;
        bed.cri.clear(&other.id).await?;
        next_pod_is_fine(bed, "after").await?;
        nothing_left_over(bed).await
    })
}

#[test]
fn a_volume_that_is_silent_when_its_pod_ends_keeps_nobody() -> Result<()> {
    on_a_node_with_short_mounts(async |bed| {
        for (name, last) in [("held", false), ("last", true)] {
            let mut volume = Volume::mount(bed, name, false)?;
            let pod = bed.cri.run(&bed.pod(name)).await?;
            let container = Container::idle("a", &busybox()).mount(&volume.at, "/volume");
            let id = bed.cri.launch(&pod, &container).await?;
            volume.silence()?;
            if last {
                // Only the container has it mounted from now on: its end is the unmount.
                volume.unmount(bed)?;
            }
            bed.crash().await?;
            bed.cri.stop(&id, 5).await?;
            assert_eq!(bed.cri.container(&id).await?.exit_code, 0);
            bed.cri.clear(&pod.id).await?;
            nothing_left_over(bed).await?;
            if !last {
                volume.unmount(bed)?;
            }
            volume.server = None;
        }
        next_pod_is_fine(bed, "after").await
    })
}

#[test]
fn a_log_on_a_volume_that_does_not_answer_is_not_rotated_and_holds_up_its_own_pod_alone()
-> Result<()> {
    on_a_node_with_short_mounts(async |bed| {
        let (other, bystander) = bed.idle("other").await?;
        let mut volume = Volume::mount(bed, "logs", false)?;
        let pod = bed.cri.run(&bed.pod("rotated").logs(&volume.at)).await?;
        let container =
            Container::idle("a", &busybox()).with(|config| FILE.clone_into(&mut config.log_path));
        let id = bed.cri.launch(&pod, &container).await?;
        volume.silence()?;
        let mut runtime = bed.cri.runtime.clone();
        let reopen = cri::ReopenContainerLogRequest { container_id: id.clone() };
        let call = tokio::spawn(async move { runtime.reopen_container_log(in_time(reopen)).await });
        let shim = waiting(bed, &pod.id).await?;
        assert_eq!(bed.cri.containers().await?.len(), 2);
        assert_eq!(bed.cri.shell(&bystander, "echo works").await?, "works");
        says(call.await?, Code::DeadlineExceeded, &["ReopenLog"]);
        next_pod_is_fine(bed, "meanwhile").await?;
        bed.crash().await?;
        assert_eq!(bed.cri.pods().await?.len(), 2);
        assert_eq!(bed.cri.shell(&bystander, "echo works").await?, "works");

        // Its containers can be killed without the shim, which cannot.
        let pid = bed.pid(&id).await?;
        let status = error(bed.cri.stop_pod(&pod.id).await);
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        assert!(status.message().contains(&format!("pid {shim}")), "{status}");
        assert!(bed.is_dead(pid), "its process is dead");

        volume.end(bed)?;
        bed.cri.clear(&pod.id).await?;
        bed.cri.clear(&other.id).await?;
        next_pod_is_fine(bed, "rotated").await?;
        nothing_left_over(bed).await
    })
}

/// The pid of the `cat` that waits for the volume.
async fn reader(bed: &Bed) -> Result<String> {
    eventually(
        || "nobody waits for the volume".to_owned(),
        async || {
            let listed = bed.node.run("ps", &["-e", "-o", "pid,args"])?;
            let cat = |line: &&str| line.contains("cat /volume/") && !line.contains("until");
            let line = listed.lines().find(cat);
            Ok(line.and_then(|line| line.split_whitespace().next()).map(str::to_owned))
        },
    )
    .await
}

/// The pid of a process that waits for a volume, by a part of its command. Until somebody kills it,
/// that is an interruptible wait.
async fn waiting(bed: &Bed, command: &str) -> Result<String> {
    eventually(
        || format!("no {command} waits for a volume"),
        async || {
            let listed = bed.node.run("ps", &["-e", "-o", "pid,wchan:32,args"])?;
            let waits =
                |line: &&str| line.contains("request_wait_answer") && line.contains(command);
            let line = listed.lines().find(waits);
            Ok(line.and_then(|line| line.split_whitespace().next()).map(str::to_owned))
        },
    )
    .await
}
