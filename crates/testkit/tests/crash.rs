//! The crash matrix: SIGKILL of the daemon before and after every effect and every save of the
//! five calls that change a pod.
//!
//! For each call, an undisturbed run counts its points (the begin and end lines of the daemon's
//! log). Then, for each point and each side of its write: the daemon dies there, a new one comes
//! up, the call is repeated and must succeed; a bystander keeps its process; and once all is
//! removed the census finds nothing.
//!
//! The long tests cut the power of the whole node at the same points instead.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{Bed, busybox, on_a_node};
use berth_testkit::crash::{Side, Strike, Traced};
use berth_testkit::cri::{Answer, Cri, RunningPod};
use berth_testkit::specs::{Container, Pod};
use cri::{ContainerState, PodSandboxState};

/// Fewer points than these, and the harness has lost sight of the daemon's log.
const FLOOR: [(Call, usize); 5] =
    [(Call::Run, 18), (Call::Create, 10), (Call::Start, 8), (Call::Stop, 30), (Call::Remove, 15)];

/// The call under fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Run,
    Create,
    Start,
    Stop,
    Remove,
}

/// A pod on its way through the five calls.
struct Subject {
    pod: Pod,
    container: Container,
    running: Option<RunningPod>,
    id: Option<String>,
}

impl Subject {
    fn new(bed: &Bed, name: &str) -> Self {
        Self {
            pod: bed.pod(name).port(8088, 80),
            // The image of its volume is one more thing to be held, mounted and let go.
            container: Container::idle("main", &busybox()).mount_with("", "/image", |mount| {
                mount.image = Some(berth_testkit::cri::image(&busybox()));
                mount.image_sub_path = "www".to_owned();
                mount.readonly = true;
            }),
            running: None,
            id: None,
        }
    }

    /// Makes a call; what it answers is kept for the next.
    async fn call(&mut self, cri: &Cri, call: Call) -> Answer<()> {
        let lost = || tonic::Status::internal("the matrix makes its calls in order");
        match call {
            Call::Run => self.running = Some(cri.run(&self.pod).await?),
            Call::Create => {
                let pod = self.running.as_ref().ok_or_else(lost)?;
                self.id = Some(cri.create(pod, &self.container).await?);
            }
            Call::Start => cri.start(self.id.as_ref().ok_or_else(lost)?).await?,
            Call::Stop => cri.stop_pod(&self.running.as_ref().ok_or_else(lost)?.id).await?,
            Call::Remove => cri.remove_pod(&self.running.as_ref().ok_or_else(lost)?.id).await?,
        }
        Ok(())
    }

    /// Makes every call that comes before this one.
    async fn lead_up(&mut self, cri: &Cri, call: Call) -> Answer<()> {
        for (earlier, _) in FLOOR {
            if earlier == call {
                break;
            }
            self.call(cri, earlier).await?;
        }
        Ok(())
    }
}

/// Counts the points of a call that nobody disturbs.
async fn count(bed: &mut Bed, call: Call) -> Result<Vec<String>> {
    let mut subject = Subject::new(bed, "subject");
    subject.lead_up(&bed.cri, call).await?;
    let traced = Traced::attach(bed.node.daemon().context("a daemon")?, None)?;
    subject.call(&bed.cri, call).await?;
    let lines = traced.lines();
    drop(traced);
    clear(bed, &subject).await?;
    Ok(lines)
}

async fn clear(bed: &Bed, subject: &Subject) -> Result<()> {
    if let Some(pod) = &subject.running {
        bed.cri.clear(&pod.id).await?;
    }
    Ok(())
}

/// Makes a call and has the daemon die at one of its points. Returns whether it died: an
/// undisturbed run may have had a point more than this one, because two containers' jobs
/// interleave as they like. If not, the subject is gone.
async fn dies(bed: &mut Bed, subject: &mut Subject, call: Call, strike: Strike) -> Result<bool> {
    let traced = Traced::attach(bed.node.daemon().context("a daemon")?, Some(strike))?;
    let answer = subject.call(&bed.cri, call).await;
    // A point after the answer may be struck or not: then it does not belong to the call.
    let killed = if answer.is_ok() { traced.release()? } else { traced.killed()? };
    if !killed && answer.is_ok() {
        clear(bed, subject).await?;
        return Ok(false);
    }
    if !killed {
        bail!("the call failed and the daemon lives: {answer:?}");
    }
    bed.node.wait_for_daemon()?;
    Ok(true)
}

/// One cell of the matrix. Returns whether the daemon died.
async fn strike(bed: &mut Bed, call: Call, strike: Strike) -> Result<bool> {
    let mut subject = Subject::new(bed, "subject");
    subject.lead_up(&bed.cri, call).await.context("before the strike")?;
    let before = match &subject.id {
        Some(id) if call == Call::Start || call == Call::Create => Some(id.clone()),
        _ => None,
    };
    if !dies(bed, &mut subject, call, strike).await? {
        return Ok(false);
    }
    bed.start().await?;
    subject.call(&bed.cri, call).await.context("the repeated call")?;
    if let (Some(before), Some(after)) = (&before, &subject.id)
        && before != after
    {
        bail!("the container {before} became {after}");
    }
    if matches!(call, Call::Start) {
        let id = subject.id.as_ref().context("a container")?;
        let identity = bed.identity(id).await?;
        bed.cri.start(id).await.context("a start of what runs")?;
        if bed.identity(id).await? != identity {
            bail!("the container was started twice");
        }
    }
    clear(bed, &subject).await.context("the removal")?;
    Ok(true)
}

/// One cell of the same matrix for the whole node: it loses its memory at this point, as by a power
/// cut, and keeps its disk. Returns whether it did.
async fn cut(bed: &mut Bed, call: Call, strike: Strike) -> Result<bool> {
    let mut subject = Subject::new(bed, "subject");
    subject.lead_up(&bed.cri, call).await.context("before the cut")?;
    if !dies(bed, &mut subject, call, strike).await? {
        return Ok(false);
    }
    bed.node.reboot()?;
    bed.start().await?;
    let (pods, containers) = (bed.cri.pods().await?, bed.cri.containers().await?);
    let told = subject.running.as_ref().filter(|_| call != Call::Run && call != Call::Remove);
    if let Some(told) = told
        && !pods.iter().any(|pod| pod.id == told.id)
    {
        bail!("the pod {} is not listed any more: {pods:?}", told.id);
    }
    if let Some(ready) = pods.iter().find(|pod| pod.state() == PodSandboxState::SandboxReady) {
        bail!("nothing runs, and a pod is ready: {ready:?}");
    }
    let runs = |one: &&cri::Container| one.state() == ContainerState::ContainerRunning;
    if let Some(running) = containers.iter().find(runs) {
        bail!("nothing runs, and a container is running: {running:?}");
    }
    bed.cri.clear_all().await.context("the removal")?;
    // The node is as good as new, and has again what the first pod makes.
    let (pod, _) = bed.idle("next").await?;
    bed.cri.clear(&pod.id).await?;
    Ok(true)
}

/// Cuts the power on each side of every point of a call; prints what it did.
fn power_cuts(call: Call) -> Result<()> {
    on_a_node(async |bed| {
        // What a node that was just booted has is what every later one is compared with.
        bed.node.reboot()?;
        bed.start().await?;
        let (pod, _) = bed.idle("first").await?;
        bed.cri.clear(&pod.id).await?;
        bed.settle()?;
        let points = count(bed, call).await?;
        let (mut cuts, mut lived) = (0, 0);
        for cell in Strike::all(points.len()) {
            let what = || {
                let line = &points[cell.number - 1];
                format!("{call:?}, power cut {:?} point {}: {line}", cell.side, cell.number)
            };
            if cut(bed, call, cell).await.with_context(what)? {
                cuts += 1;
            } else {
                lived += 1;
            }
            bed.is_clean().with_context(what)?;
        }
        eprintln!("{call:?}: {} points, {cuts} power cuts, {lived} not reached", points.len());
        assert!(lived * 5 <= cuts, "{call:?}: {lived} of {} cuts never fell", lived + cuts);
        Ok(())
    })
}

/// Every `step`th cell of the matrix of some calls; prints what it did.
async fn matrix(bed: &mut Bed, calls: &[Call], step: usize) -> Result<()> {
    let (_, bystander) = bed.idle("bystander").await?;
    let untouched = bed.identity(&bystander).await?;
    // A daemon that adopted the bystander is what every later one is compared with.
    bed.crash().await?;
    bed.settle()?;
    for (call, floor) in FLOOR.into_iter().filter(|(call, _)| calls.contains(call)) {
        let points = count(bed, call).await?;
        let number = points.len();
        assert!(number >= floor, "{call:?} has {number} points, fewer than {floor}: {points:#?}");
        let (start, mut died, mut lived) = (Instant::now(), 0, 0);
        for cell in Strike::all(number).step_by(step) {
            let what = || {
                let side = if cell.side == Side::Before { "before" } else { "after" };
                format!(
                    "{call:?}, {side} point {} of {number}: {}",
                    cell.number,
                    points[cell.number - 1]
                )
            };
            if strike(bed, call, cell).await.with_context(what)? {
                died += 1;
            } else {
                lived += 1;
            }
            bed.is_clean().with_context(what)?;
            let now = bed.identity(&bystander).await.with_context(what)?;
            assert_eq!(now, untouched, "the bystander, {}", what());
        }
        eprintln!(
            "{call:?}: {number} points, {died} deaths, {lived} not reached, {:.2} s for each",
            start.elapsed().as_secs_f64() / f64::from(died + lived).max(1.0)
        );
        // Jobs that run beside the call may end after its answer: a few points, not many.
        assert!(lived * 5 <= died, "{call:?}: {lived} of {} strikes never fell", lived + died);
    }
    bed.cri.clear_all().await?;
    bed.forget_settled();
    Ok(())
}

fn run(calls: &[Call], step: usize) -> Result<()> {
    let start = Instant::now();
    on_a_node(async |bed| matrix(bed, calls, step).await)?;
    assert!(start.elapsed() < Duration::from_secs(900), "the matrix takes too long for CI");
    Ok(())
}

#[test]
fn crash_run() -> Result<()> {
    run(&[Call::Run], 1)
}

#[test]
fn crash_create_and_start() -> Result<()> {
    run(&[Call::Create, Call::Start], 1)
}

#[test]
fn crash_stop_and_remove() -> Result<()> {
    run(&[Call::Stop, Call::Remove], 1)
}

#[test]
fn long_power_cuts_while_a_pod_is_run() -> Result<()> {
    power_cuts(Call::Run)
}

#[test]
fn long_power_cuts_while_a_container_is_created() -> Result<()> {
    power_cuts(Call::Create)
}

#[test]
fn long_power_cuts_while_a_container_is_started() -> Result<()> {
    power_cuts(Call::Start)
}

#[test]
fn long_power_cuts_while_a_pod_is_stopped() -> Result<()> {
    power_cuts(Call::Stop)
}

#[test]
fn long_power_cuts_while_a_pod_is_removed() -> Result<()> {
    power_cuts(Call::Remove)
}
