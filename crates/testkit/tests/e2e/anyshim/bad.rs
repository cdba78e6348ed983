//! Bad shims: stand-ins that go wrong in one way each. What is checked of all: what the caller is
//! told, that only their own pod is concerned, and that nothing is left.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{Bed, busybox, eventually, nobody_runs, on_a_node_with};
use berth_testkit::config::Config;
use berth_testkit::cri::{Answer, RunningPod, refused};
use berth_testkit::specs::Container;
use cri::{ContainerState, PodSandboxState};
use futures_util::future::try_join_all;
use tonic::Code;

use super::Subject;
use crate::streaming::{fifos, no_fifos};

/// Where the levers of the stand-in are; see `berth_testkit::shim`.
struct Bad {
    dir: tempfile::TempDir,
}

impl Bad {
    fn program(&self) -> PathBuf {
        self.dir.path().join("bin/containerd-shim-bad-v1")
    }

    /// From now on this goes wrong in this way, for the shim of this sandbox.
    fn set(&self, what: &str, lever: &str, pod: &str) -> Result<()> {
        fs::write(self.dir.path().join(what), format!("{lever} {pod}")).context("set a lever")
    }

    fn mend(&self, what: &str) -> Result<()> {
        fs::remove_file(self.dir.path().join(what)).context("mend the shim")
    }

    /// How often a call has been refused or left to hang.
    fn noted(&self, call: &str) -> Result<usize> {
        let noted = fs::read_to_string(self.dir.path().join("noted")).unwrap_or_default();
        Ok(noted.lines().filter(|line| *line == call).count())
    }

    /// Sockets that are left.
    fn sockets(&self) -> Result<Vec<PathBuf>> {
        let all = fs::read_dir(self.dir.path())?.flatten().map(|entry| entry.path());
        Ok(all.filter(|path| path.extension().is_some_and(|is| is == "sock")).collect())
    }
}

fn executable(path: &Path, script: &str) -> Result<()> {
    fs::create_dir_all(path.parent().context("a directory")?)?;
    fs::write(path, script)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).context("make it executable")
}

/// Runs a test on a node whose shim is the stand-in over containerd's; in the end nothing of any
/// pod is left.
fn on_a_node_with_bad(test: impl AsyncFnOnce(&mut Bed, &Bad) -> Result<()>) -> Result<()> {
    let bad = Bad { dir: tempfile::tempdir()? };
    let real = Subject::runc_v2()?.shim;
    let testkit = berth_testkit::paths::testkit()?;
    let (testkit, dir) = (testkit.display(), bad.dir.path().display());
    let script = format!("#!/bin/sh\nexec {testkit} shim {dir} {} \"$@\"\n", real.display());
    executable(&bad.program(), &script)?;
    let handler = format!("[handlers.berth]\nshim = {:?}\n", bad.program());
    let config = Config::default().drop_in("50-shim.toml", &handler);
    on_a_node_with(config, &["busybox"], async |bed| {
        test(bed, &bad).await?;
        bed.cri.clear_all().await?;
        eventually(
            || "something stays left over".to_owned(),
            async || Ok(bed.berth(&["status"])?.contains("leftovers     0").then_some(())),
        )
        .await?;
        assert_eq!(bad.sockets()?, Vec::<PathBuf>::new(), "a socket is left");
        Ok(())
    })
}

/// The call failed with this code and says each of these.
#[track_caller]
fn says<T: std::fmt::Debug>(answer: Answer<T>, code: Code, parts: &[&str]) {
    let status = answer.expect_err("this call should have failed");
    assert_eq!(status.code(), code, "{status}");
    for part in parts {
        assert!(status.message().contains(part), "no {part:?} in {status}");
    }
}

/// A pod that nothing goes wrong with, and what must not change about it.
struct Bystander {
    pod: String,
    container: String,
    identity: (u32, String),
}

impl Bystander {
    async fn run(bed: &Bed) -> Result<Self> {
        let (pod, container) = bed.idle("bystander").await?;
        let identity = bed.identity(&container).await?;
        Ok(Self { pod: pod.id, container, identity })
    }

    async fn is_untouched(&self, bed: &Bed) -> Result<()> {
        assert_eq!(bed.identity(&self.container).await?, self.identity);
        assert_eq!(bed.cri.shell(&self.container, "echo works").await?, "works");
        let state = bed.cri.pod_status(&self.pod).await?.state();
        assert_eq!(state, PodSandboxState::SandboxReady);
        Ok(())
    }
}

#[test]
fn a_start_that_goes_wrong_fails_its_pod_and_says_how() -> Result<()> {
    on_a_node_with_bad(async |bed, bad| {
        let bystander = Bystander::run(bed).await?;
        let (program, away) = (bad.program(), bad.dir.path().join("away"));
        let named = program.display().to_string();
        fs::rename(&program, &away)?;
        says(bed.cri.run(&bed.pod("missing")).await, Code::Unavailable, &[&named]);
        fs::write(&program, "not a program")?;
        says(bed.cri.run(&bed.pod("plain")).await, Code::Unavailable, &[&named]);
        executable(&program, "#!/bin/sh\necho no luck today >&2\nexit 3\n")?;
        says(bed.cri.run(&bed.pod("fails")).await, Code::Internal, &[&named, "no luck today"]);
        fs::rename(&away, &program)?;
        for (lever, code, told) in [
            ("exit", Code::Internal, named.as_str()),
            ("garbage", Code::Internal, "what is this?"),
            ("leak", Code::Unavailable, "cannot connect to the shim"),
        ] {
            fs::write(bad.dir.path().join("start"), lever)?;
            says(bed.cri.run(&bed.pod(lever)).await, code, &[told]);
        }
        bad.mend("start")?;
        eventually(
            || "a pod that failed stays".to_owned(),
            async || Ok((bed.cri.pods().await?.len() == 1).then_some(())),
        )
        .await?;
        bystander.is_untouched(bed).await?;
        let (pod, id) = bed.idle("missing").await?;
        assert_eq!(bed.cri.shell(&id, "echo works").await?, "works");
        Ok(bed.cri.clear(&pod.id).await?)
    })
}

#[test]
fn long_a_start_that_never_answers_fails_its_pod() -> Result<()> {
    on_a_node_with_bad(async |bed, bad| {
        let bystander = Bystander::run(bed).await?;
        fs::write(bad.dir.path().join("start"), "hang")?;
        says(bed.cri.run(&bed.pod("hangs")).await, Code::DeadlineExceeded, &["start"]);
        bad.mend("start")?;
        bystander.is_untouched(bed).await
    })
}

/// A pod whose shim does not answer a call, which somebody waits for.
struct Hanging {
    call: &'static str,
    pod: RunningPod,
    id: String,
    pid: u32,
    asked: tokio::task::JoinHandle<()>,
}

impl Hanging {
    async fn run(bed: &Bed, bad: &Bad, call: &'static str) -> Result<Self> {
        let pod = bed.cri.run(&bed.pod(&call.to_lowercase())).await?;
        let id = bed.cri.launch(&pod, &Container::idle("main", &busybox())).await?;
        let late = bed.cri.create(&pod, &Container::idle("late", &busybox())).await?;
        let pid = bed.pid(&id).await?;
        bad.set(call, "hang", &pod.id)?;
        let (cri, of_exec) = (bed.cri.clone(), id.clone());
        let asked = tokio::spawn(async move {
            match call {
                "Exec" => drop(cri.exec_within(&of_exec, &["true"], 1).await),
                _ => drop(cri.start(&late).await),
            }
        });
        Ok(Self { call, pod, id, pid, asked })
    }

    /// Whatever is waited for: the pod can be stopped, which kills it, and removed.
    async fn end(self, bed: &Bed) -> Result<()> {
        let Self { call, pod, id, pid, asked } = self;
        let begin = Instant::now();
        bed.cri.stop_pod(&pod.id).await.with_context(|| format!("stop while {call} hangs"))?;
        assert!(bed.is_dead(pid), "{call}: who is told to be stopped is dead");
        let state = bed.cri.container(&id).await?.state();
        assert_eq!(state, ContainerState::ContainerExited, "{call}");
        bed.cri.remove_pod(&pod.id).await.with_context(|| format!("remove while {call} hangs"))?;
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(60), "{call}: {took:?}");
        asked.await.context("the call that hung")
    }
}

/// Pods whose shims do not answer one call each, with the daemon killed meanwhile or not.
async fn hang(bed: &mut Bed, bad: &Bad, calls: &[&'static str], killed: bool) -> Result<()> {
    let bystander = Bystander::run(bed).await?;
    let pods = try_join_all(calls.iter().map(|call| Hanging::run(bed, bad, call))).await?;
    assert_eq!(bed.cri.pods().await?.len(), calls.len() + 1, "lists do not wait");
    bystander.is_untouched(bed).await?;
    if killed {
        bed.crash().await?;
    }
    try_join_all(pods.into_iter().map(|pod| pod.end(bed))).await?;
    bystander.is_untouched(bed).await?;
    calls.iter().try_for_each(|call| bad.mend(call))
}

#[test]
fn a_call_that_hangs_concerns_its_own_pod_and_that_can_be_removed() -> Result<()> {
    on_a_node_with_bad(async |bed, bad| {
        let calls = ["Create", "Start", "State", "Exec", "Kill", "Wait", "Delete", "Shutdown"];
        hang(bed, bad, &calls, false).await
    })
}

#[test]
fn a_call_that_hangs_while_the_daemon_is_killed_is_no_more_than_that() -> Result<()> {
    on_a_node_with_bad(async |bed, bad| {
        hang(bed, bad, &["Create", "Start", "Wait", "Delete"], true).await
    })
}

#[test]
fn a_command_is_answered_before_its_shim_has_forgotten_it() -> Result<()> {
    on_a_node_with_bad(async |bed, bad| {
        let (pod, id) = bed.idle("forgets").await?;
        bad.set("Delete", "hang", &pod.id)?;
        let output = bed.cri.exec(&id, &["sh", "-c", "echo out; echo err >&2; exit 7"]).await?;
        let said = (output.stdout.as_str(), output.stderr.as_str(), output.code);
        assert_eq!(said, ("out\n", "err\n", 7));
        // They stay until Delete is not waited for any more.
        assert_ne!(fifos(bed, &id)?, Vec::<String>::new(), "Delete has been waited for");
        no_fifos(bed, &id).await?;
        bad.mend("Delete")?;
        assert_eq!(bed.cri.shell(&id, "echo works").await?, "works");
        no_fifos(bed, &id).await
    })
}

#[test]
fn a_command_that_cannot_be_ended_yet_is_ended_later() -> Result<()> {
    on_a_node_with_bad(async |bed, bad| {
        let (pod, id) = bed.idle("later").await?;
        bad.set("Kill", "refuse", &pod.id)?;
        bad.set("Delete", "refuse", &pod.id)?;
        let answer = bed.cri.exec_within(&id, &["sleep", "4905"], 1).await;
        assert_eq!(refused(answer), Code::DeadlineExceeded);
        let again = async || Ok((bad.noted("Delete")? > 1).then_some(()));
        eventually(|| "it is not tried again".to_owned(), again).await?;
        let left = fifos(bed, &id)?;
        assert_ne!(left, Vec::<String>::new(), "the next daemon would not find it");
        bad.mend("Kill")?;
        bad.mend("Delete")?;
        no_fifos(bed, &id).await?;
        nobody_runs(bed, "sleep 4905").await
    })
}

#[test]
fn a_command_that_waits_for_its_turn_is_not_started_for_nobody() -> Result<()> {
    on_a_node_with_bad(async |bed, bad| {
        let (pod, id) = bed.idle("turns").await?;
        bad.set("Start", "hang", &pod.id)?;
        let (cri, of) = (bed.cri.clone(), id.clone());
        let first = tokio::spawn(async move { cri.exec_within(&of, &["true"], 4).await });
        let hangs = async || Ok((bad.noted("Start")? > 0).then_some(()));
        eventually(|| "the first command does not begin".to_owned(), hangs).await?;
        bad.mend("Start")?;
        // Behind the first, which has its turn for 5 s.
        let answer = bed.cri.exec_within(&id, &["touch", "/tmp/second"], 1).await;
        assert_eq!(refused(answer), Code::DeadlineExceeded);
        let seen = "[ -e /tmp/second ] && echo it is started || echo it is not";
        assert_eq!(bed.cri.shell(&id, seen).await?, "it is not");
        assert_eq!(refused(first.await?), Code::DeadlineExceeded);
        Ok(())
    })
}

/// A shim that dies at such a moment of a container, beside another that runs.
async fn die_between(bed: &mut Bed, bad: &Bad, moment: (&str, &str), crash: bool) -> Result<()> {
    let pod = bed.cri.run(&bed.pod("between")).await?;
    let running = bed.cri.launch(&pod, &Container::idle("main", &busybox())).await?;
    let pid = bed.pid(&running).await?;
    let id = bed.cri.create(&pod, &Container::idle("late", &busybox())).await?;
    bad.set(moment.0, moment.1, &pod.id)?;
    let started = bed.cri.start(&id).await;
    if moment != ("Start", "die-after") {
        assert_eq!(refused(started), Code::Unavailable, "{moment:?}");
    }
    if crash {
        bed.crash().await?;
    }
    let status = bed.cri.exited(&running).await?;
    assert!(bed.is_dead(pid), "{moment:?}: who is listed as ended is dead");
    assert_eq!((status.exit_code, status.reason.as_str()), (255, "Error"));
    bed.cri.exited(&id).await?;
    // Its containers' ends may be known before its own.
    let ended = async || {
        let state = bed.cri.pod_status(&pod.id).await?.state();
        Ok((state == PodSandboxState::SandboxNotready).then_some(()))
    };
    eventually(|| format!("{moment:?}: the pod stays ready"), ended).await?;
    bad.mend(moment.0)?;
    Ok(bed.cri.clear(&pod.id).await?)
}

#[test]
fn a_shim_that_dies_between_create_and_start_takes_its_pod_along_and_no_other() -> Result<()> {
    on_a_node_with_bad(async |bed, bad| {
        let bystander = Bystander::run(bed).await?;
        for moment in [("Create", "die-after"), ("Start", "die-before"), ("Start", "die-after")] {
            for crash in [false, true] {
                die_between(bed, bad, moment, crash).await?;
                bystander.is_untouched(bed).await?;
            }
        }
        Ok(())
    })
}

#[test]
fn a_start_that_hangs_while_the_daemon_is_killed_is_made_again() -> Result<()> {
    on_a_node_with_bad(async |bed, bad| {
        let bystander = Bystander::run(bed).await?;
        fs::write(bad.dir.path().join("start"), "hang")?;
        let (cri, pod) = (bed.cri.clone(), bed.pod("hangs"));
        let wanted = pod.clone();
        let asked = tokio::spawn(async move { cri.run(&pod).await.map(drop) });
        let hangs = "ps -e -o args | grep -q '[b]erth-testkit shim .* start$'";
        eventually(
            || "no `start` hangs".to_owned(),
            async || Ok(bed.node.run("sh", &["-c", hangs]).ok()),
        )
        .await?;
        // What hangs, hangs.
        bad.mend("start")?;
        bed.crash().await?;
        asked.await?.expect_err("the daemon has gone");
        // Asked for again, it is what the next daemon has gone on with.
        let pod = bed.cri.run(&wanted).await?;
        let hung = bed.node.run("sh", &["-c", hangs]);
        assert!(hung.is_err(), "`start` hangs still");
        let id = bed.cri.launch(&pod, &Container::idle("main", &busybox())).await?;
        assert_eq!(bed.cri.shell(&id, "echo works").await?, "works");
        bed.cri.clear(&pod.id).await?;
        bystander.is_untouched(bed).await
    })
}

#[test]
fn a_shim_that_closes_its_socket_and_lives_is_put_down_with_its_pod() -> Result<()> {
    on_a_node_with_bad(async |bed, bad| {
        let bystander = Bystander::run(bed).await?;
        for restart in [false, true] {
            let (pod, id) = bed.idle("deaf").await?;
            let pid = bed.pid(&id).await?;
            bad.set("Exec", "close", &pod.id)?;
            bed.cri.exec(&id, &["true"]).await.expect_err("nobody answers");
            bad.mend("Exec")?;
            assert!(!bed.is_dead(pid), "a shim that lives has living containers");
            if restart {
                bed.crash().await?;
            }
            bystander.is_untouched(bed).await?;
            bed.cri.stop_pod(&pod.id).await?;
            assert!(bed.is_dead(pid));
            bed.cri.remove_pod(&pod.id).await?;
            bystander.is_untouched(bed).await?;
        }
        Ok(())
    })
}

#[test]
fn an_exit_that_is_never_reported_is_noticed_all_the_same() -> Result<()> {
    on_a_node_with_bad(async |bed, bad| {
        let bystander = Bystander::run(bed).await?;
        let pod = bed.cri.run(&bed.pod("never")).await?;
        bad.set("exits", "never", &pod.id)?;
        for crash in [false, true] {
            let name = if crash { "crash" } else { "a" };
            let ends = Container::new(name, &busybox()).shell("exit 3");
            let id = bed.cri.launch(&pod, &ends).await?;
            if crash {
                bed.crash().await?;
            }
            let status = bed.cri.exited(&id).await?;
            assert_eq!((status.exit_code, status.reason.as_str()), (255, "Error"));
            assert!(status.message.contains("shim"), "{}", status.message);
        }
        let idle = bed.cri.launch(&pod, &Container::idle("b", &busybox())).await?;
        let pid = bed.pid(&idle).await?;
        bed.cri.stop(&idle, 0).await?;
        assert!(bed.is_dead(pid));
        assert_eq!(bed.cri.container(&idle).await?.state(), ContainerState::ContainerExited);
        bed.cri.clear(&pod.id).await?;
        bad.mend("exits")?;
        bystander.is_untouched(bed).await
    })
}

#[test]
fn an_exit_that_is_reported_twice_is_one() -> Result<()> {
    on_a_node_with_bad(async |bed, bad| {
        let pod = bed.cri.run(&bed.pod("twice")).await?;
        bad.set("exits", "twice", &pod.id)?;
        let id = bed.cri.launch(&pod, &Container::new("a", &busybox()).shell("exit 3")).await?;
        assert_eq!(bed.cri.exited(&id).await?.exit_code, 3);
        let next = bed.cri.launch(&pod, &Container::new("b", &busybox()).shell("exit 4")).await?;
        bed.crash().await?;
        assert_eq!(bed.cri.exited(&next).await?.exit_code, 4);
        assert_eq!(bed.cri.container(&id).await?.exit_code, 3);
        Ok(bed.cri.clear(&pod.id).await?)
    })
}

#[test]
fn a_shim_that_dies_with_its_containers_is_noticed_by_the_next_daemon_too() -> Result<()> {
    on_a_node_with_bad(async |bed, bad| {
        let bystander = Bystander::run(bed).await?;
        let (pod, id) = bed.idle("dies").await?;
        let pid = bed.pid(&id).await?;
        // The next daemon asks it first thing, and it dies of that.
        bad.set("State", "die-before", &pod.id)?;
        bed.crash().await?;
        let status = bed.cri.exited(&id).await?;
        assert!(bed.is_dead(pid), "who is listed as ended is dead");
        assert_eq!((status.exit_code, status.reason.as_str()), (255, "Error"));
        bad.mend("State")?;
        bed.cri.clear(&pod.id).await?;
        bystander.is_untouched(bed).await
    })
}
