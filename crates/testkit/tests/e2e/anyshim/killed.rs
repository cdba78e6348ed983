//! The daemon is killed while a shim by others does what it was told; the next one repeats it.

use anyhow::{Context as _, Result, bail, ensure};
use berth_proto::cri::v1::{ContainerState, PodSandboxState};
use berth_testkit::bed::{Bed, busybox};
use berth_testkit::crash::{Strike, Traced};
use berth_testkit::cri::{Answer, RunningPod};
use berth_testkit::specs::{Container, Pod};

use super::Subject;

/// The call during which it dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Run,
    Start,
}

/// A pod and its container, as far as there are.
struct Victim {
    /// Each has a uid of its own.
    asked: Pod,
    pod: Option<RunningPod>,
    id: Option<String>,
}

impl Victim {
    fn new(bed: &Bed) -> Self {
        Self { asked: bed.pod("victim").shared_pid(), pod: None, id: None }
    }

    /// Its PID namespace is the sandbox's, which is a task.
    async fn run(&mut self, bed: &Bed) -> Answer<()> {
        self.pod = Some(bed.cri.run(&self.asked).await?);
        Ok(())
    }

    /// A container that says this once it is told to go.
    async fn create(&mut self, bed: &Bed, says: &str) -> Result<()> {
        let line = format!("until [ -e /tmp/go ]; do usleep 10000; done; echo '{says}'; sleep 999");
        let pod = self.pod.as_ref().context("a pod")?;
        self.id = Some(bed.cri.create(pod, &Container::new("a", &busybox()).shell(&line)).await?);
        Ok(())
    }

    fn id(&self) -> &str {
        self.id.as_deref().unwrap_or_default()
    }

    async fn call(&mut self, bed: &Bed, call: Call) -> Answer<()> {
        match call {
            Call::Run => self.run(bed).await,
            Call::Start => bed.cri.start(self.id()).await,
        }
    }

    /// What comes before this call.
    async fn lead_up(&mut self, bed: &Bed, call: Call, says: &str) -> Result<()> {
        if call == Call::Start {
            self.run(bed).await?;
            self.create(bed, says).await?;
        }
        Ok(())
    }

    async fn clear(&self, bed: &Bed) -> Result<()> {
        Ok(bed.cri.clear(&self.pod.as_ref().context("a pod")?.id).await?)
    }
}

/// The points of a call that nobody disturbs.
async fn points(bed: &Bed, call: Call) -> Result<Vec<String>> {
    let mut victim = Victim::new(bed);
    victim.lead_up(bed, call, "").await?;
    let traced = Traced::attach(bed.node.daemon().context("a daemon")?, None)?;
    victim.call(bed, call).await?;
    let lines = traced.lines();
    drop(traced);
    victim.clear(bed).await?;
    Ok(lines)
}

/// One death. Returns whether it came: a point after the call's answer may not be reached.
async fn strike(bed: &mut Bed, call: Call, strike: Strike) -> Result<bool> {
    let says = format!("said {call:?} {} {:?}", strike.number, strike.side);
    let mut victim = Victim::new(bed);
    victim.lead_up(bed, call, &says).await.context("before the strike")?;
    let traced = Traced::attach(bed.node.daemon().context("a daemon")?, Some(strike))?;
    let answer = victim.call(bed, call).await;
    let killed = if answer.is_ok() { traced.release()? } else { traced.killed()? };
    match answer {
        Ok(()) if !killed => {
            victim.clear(bed).await?;
            return Ok(false);
        }
        Err(why) if !killed => bail!("the call failed and the daemon lives: {why}"),
        _ => drop(bed.node.wait_for_daemon()?),
    }
    bed.start().await?;
    victim.call(bed, call).await.context("the repeated call")?;
    if call == Call::Run {
        victim.create(bed, &says).await?;
        bed.cri.start(victim.id()).await?;
    }
    let pod = victim.pod.as_ref().context("a pod")?;
    assert_eq!(bed.cri.pod_status(&pod.id).await?.state(), PodSandboxState::SandboxReady);
    let seen = bed.cri.shell(victim.id(), "touch /tmp/go; ps").await.context("a command")?;
    assert!(seen.contains("pause"), "the sandbox's process is not there: {seen}");
    bed.log_says("victim", &says).await?;
    assert_eq!(bed.cri.container(victim.id()).await?.state(), ContainerState::ContainerRunning);
    victim.clear(bed).await.context("the removal")?;
    Ok(true)
}

/// Both sides of the points of a call that this picks.
async fn strikes(bed: &mut Bed, call: Call, picks: impl Fn(&str) -> bool) -> Result<()> {
    bed.settle()?;
    let points = points(bed, call).await?;
    let (mut died, mut lived) = (0, 0);
    for cell in Strike::all(points.len()) {
        let line = &points[cell.number - 1];
        if !picks(line) {
            continue;
        }
        let what = || {
            format!("{call:?}, {:?} point {} of {}: {line}", cell.side, cell.number, points.len())
        };
        match strike(bed, call, cell).await.with_context(what)? {
            true => died += 1,
            false => lived += 1,
        }
        bed.is_clean().with_context(what)?;
    }
    ensure!(lived * 5 <= died, "{call:?}: {died} deaths, {lived} points not reached: {points:#?}");
    Ok(())
}

/// The shim has started a task, and no record says so: it is adopted, and its output is carried.
#[test]
fn a_task_is_adopted_that_no_record_names() -> Result<()> {
    Subject::runc_v2()?.on_a_node(async |bed| {
        let ends = |line: &str, step| line.contains("effect=\"end\"") && line.contains(step);
        strikes(bed, Call::Run, |line| ends(line, "acquire.sandbox")).await?;
        strikes(bed, Call::Start, |line| ends(line, "acquire.task")).await
    })
}

#[test]
fn long_deaths_at_every_point_while_a_pod_is_run() -> Result<()> {
    Subject::runc_v2()?.on_a_node(async |bed| strikes(bed, Call::Run, |_| true).await)
}

#[test]
fn long_deaths_at_every_point_while_a_container_is_started() -> Result<()> {
    Subject::runc_v2()?.on_a_node(async |bed| strikes(bed, Call::Start, |_| true).await)
}
