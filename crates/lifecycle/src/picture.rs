//! From the loop's state to what lists, status and the operator see.
//!
//! A picture is made after every change, so it copies nothing: it shares the record with the loop,
//! and containers that stayed the same with the picture before. What the operator sees is written
//! out when it is asked for.

use std::sync::Arc;

use berth_pod::holding::{ContainerHolding, Holding, PodHolding};
use berth_pod::job::{Job, Subject, Verb};
use berth_pod::machine::{Machine, Nanos};
use berth_pod::record::{ContainerRecord, Exit, PodRecord};

use crate::pod_task::InProgress;
use crate::view::{ContainerReport, ContainerState, ContainerView, JobReport, PodReport, PodView};

/// The pod as CRI sees it; `before` is the last picture of it.
pub(crate) fn view(machine: &Machine, silent: bool, before: Option<&PodView>) -> PodView {
    let r = machine.record();
    let listed = |c: &&Arc<ContainerRecord>| machine.container_listed(&c.id);
    let before = before.map_or(&[][..], |view| &view.containers);
    let container = |c: &Arc<ContainerRecord>| {
        let state = state(c, silent);
        let same = |v: &&Arc<ContainerView>| Arc::ptr_eq(&v.record, c) && v.state == state;
        before.iter().find(same).cloned().unwrap_or_else(|| Arc::new(container(r, c, state)))
    };
    PodView {
        record: Arc::clone(r),
        listed: machine.listed(),
        containers: r.containers.values().filter(listed).map(container).collect(),
    }
}

fn container(r: &PodRecord, c: &Arc<ContainerRecord>, state: ContainerState) -> ContainerView {
    ContainerView {
        record: Arc::clone(c),
        sandbox: r.id.clone(),
        state,
        rolled_back: rolled_back(c),
    }
}

fn rolled_back(c: &ContainerRecord) -> Option<Exit> {
    c.failure.as_ref().filter(|_| c.exit.is_none() && !c.answered).map(|why| {
        let message = why.message.clone();
        Exit { code: 128, at: c.created_at, reason: "StartError".into(), message }
    })
}

fn state(c: &ContainerRecord, silent: bool) -> ContainerState {
    let rolled_back = c.failure.is_some() && !c.answered;
    match (c.exit.is_some() || rolled_back, c.running()) {
        (true, _) => ContainerState::Exited,
        (false, true) if silent => ContainerState::Unknown,
        (false, true) => ContainerState::Running,
        (false, false) => ContainerState::Created,
    }
}

/// One step that is being taken, or waits for its next try.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Work {
    job: Job,
    since: Nanos,
    failures: u32,
    last_error: Option<String>,
}

/// What is being done, and what waits for its next try.
pub(crate) fn work<'j>(machine: &Machine, jobs: impl Iterator<Item = &'j InProgress>) -> Vec<Work> {
    let one = |job: Job, since| {
        let tries = machine.tries().get(&job.subject);
        Work {
            since,
            failures: tries.map_or(0, |t| t.failures),
            last_error: tries.map(|t| t.last.message.clone()),
            job,
        }
    };
    let jobs = jobs.filter(|p| p.job.verb != Verb::Watch);
    let mut work: Vec<_> = jobs.map(|p| one(p.job.clone(), p.since)).collect();
    for (subject, tries) in machine.tries() {
        if work.iter().any(|w| w.job.subject == *subject) {
            continue;
        }
        let verb = match subject {
            Subject::Exit(_) | Subject::Sandbox => Verb::Watch,
            Subject::Signal(_) => Verb::Kill { tries: 0 },
            Subject::Update(_) => Verb::Update,
            Subject::Pod(_) | Subject::Container(..) => Verb::Release,
        };
        work.push(one(Job { subject: subject.clone(), verb }, tries.since));
    }
    work
}

/// The pod as the operator sees it.
pub(crate) fn report(view: &PodView, work: &[Work], now: Nanos) -> PodReport {
    let r = &view.record;
    let name = &r.spec.spec.name;
    let failure = r.failure.as_ref().map(|f| f.message.clone());
    let mut jobs: Vec<_> = work.iter().map(|work| job(work, now)).collect();
    jobs.sort_by(|a, b| a.step.cmp(&b.step));
    PodReport {
        id: r.id.clone(),
        namespace: name.namespace.clone(),
        name: name.name.clone(),
        attempt: name.attempt,
        handler: r.handler.clone(),
        ready: r.ready(),
        listed: view.listed,
        wish: r.wish.name(),
        trouble: failure.or_else(|| r.lost.as_ref().map(|l| l.reason())),
        holdings: PodHolding::ALL
            .iter()
            .map(|h| (h.name().to_owned(), r.status(*h).name()))
            .collect(),
        jobs,
        containers: r.containers.values().map(|c| container_report(c)).collect(),
    }
}

fn job(work: &Work, now: Nanos) -> JobReport {
    JobReport {
        step: work.job.to_string(),
        container: work.job.subject.container().cloned(),
        age_ms: u64::try_from((now - work.since) / 1_000_000).unwrap_or(0),
        failures: work.failures,
        last_error: work.last_error.clone(),
    }
}

fn container_report(c: &ContainerRecord) -> ContainerReport {
    ContainerReport {
        id: c.id.clone(),
        name: c.spec.spec.name.name.clone(),
        attempt: c.spec.spec.name.attempt,
        state: state(c, false),
        wish: c.wish.name(),
        pid: c.task.held().filter(|_| c.running()).map(|t| t.pid),
        exit: c.exit.clone(),
        holdings: ContainerHolding::ALL
            .iter()
            .map(|h| (h.name().to_owned(), c.status(*h).name()))
            .collect(),
    }
}
