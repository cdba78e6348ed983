//! From the loop's state to what lists, status and the operator see.

use std::sync::Arc;

use berth_pod::holding::{ContainerHolding, Holding, PodHolding};
use berth_pod::job::{Job, Subject, Verb};
use berth_pod::machine::Machine;
use berth_pod::record::{ContainerRecord, Exit, PodRecord};

use crate::layout::below;
use crate::pod_task::InProgress;
use crate::view::{ContainerReport, ContainerState, ContainerView, JobReport, PodReport, PodView};

/// The pod as CRI sees it.
pub(crate) fn view(machine: &Machine, silent: bool) -> PodView {
    let r = machine.record();
    let listed = |c: &&ContainerRecord| machine.container_listed(&c.id);
    PodView {
        id: r.id.clone(),
        spec: Arc::clone(&r.spec),
        handler: r.handler.clone(),
        ready: r.ready(),
        listed: machine.listed(),
        created_at: r.created_at,
        ips: r.network.held().map(|n| n.ips.clone()).unwrap_or_default(),
        cgroup: r.cgroup.held().map(|c| c.path.clone()),
        netns: r.namespaces.held().and_then(|n| n.net.clone()),
        pid: r.sandbox.held().and_then(|s| s.pid),
        lost: r.lost.clone(),
        record: Arc::new(r.clone()),
        containers: r
            .containers
            .values()
            .filter(listed)
            .map(|c| Arc::new(container(r, c, silent)))
            .collect(),
    }
}

fn container(r: &PodRecord, c: &ContainerRecord, silent: bool) -> ContainerView {
    let pod_cgroup = r.cgroup.held().map(|c| c.path.as_str()).unwrap_or_default();
    let image = c.image.held().cloned().unwrap_or_default();
    // Listed though its creation failed: it is shown as ended, so that it is removed.
    let rolled_back = c.failure.as_ref().filter(|_| c.exit.is_none() && !c.answered).map(|why| {
        let message = why.message.clone();
        Exit { code: 128, at: c.created_at, reason: "StartError".into(), message }
    });
    let exit = c.exit.clone().or(rolled_back);
    let state = match (&exit, c.running()) {
        (Some(_), _) => ContainerState::Exited,
        (None, true) if silent => ContainerState::Unknown,
        (None, true) => ContainerState::Running,
        (None, false) => ContainerState::Created,
    };
    ContainerView {
        id: c.id.clone(),
        sandbox: r.id.clone(),
        spec: Arc::clone(&c.spec),
        resources: c.resources.clone(),
        image: image.facts,
        user: image.user,
        state,
        created_at: c.created_at,
        started_at: c.started_at,
        pid: c.task.held().filter(|_| c.running()).map(|t| t.pid),
        exit,
        cgroup: c.cgroup.held().cloned().unwrap_or_else(|| below(pod_cgroup, c.id.as_str())),
    }
}

/// The pod as the operator sees it.
pub(crate) fn report<'j>(
    machine: &Machine,
    view: &PodView,
    jobs: impl Iterator<Item = &'j InProgress>,
) -> PodReport {
    let r = machine.record();
    let name = &r.spec.spec.name;
    let failure = r.failure.as_ref().map(|f| f.message.clone());
    PodReport {
        id: r.id.clone(),
        namespace: name.namespace.clone(),
        name: name.name.clone(),
        attempt: name.attempt,
        handler: r.handler.clone(),
        ready: view.ready,
        listed: view.listed,
        wish: r.wish.name(),
        trouble: failure.or_else(|| r.lost.as_ref().map(|l| l.reason())),
        holdings: PodHolding::ALL
            .iter()
            .map(|h| (h.name().to_owned(), r.status(*h).name()))
            .collect(),
        jobs: work(machine, jobs),
        containers: r.containers.values().map(|c| container_report(r, c)).collect(),
    }
}

/// What is being done, and what waits for its next try.
fn work<'j>(machine: &Machine, jobs: impl Iterator<Item = &'j InProgress>) -> Vec<JobReport> {
    let line = |job: &Job, since| {
        let tries = machine.tries().get(&job.subject);
        JobReport {
            step: job.to_string(),
            container: job.subject.container().cloned(),
            age_ms: 0,
            since,
            failures: tries.map_or(0, |t| t.failures),
            last_error: tries.map(|t| t.last.message.clone()),
        }
    };
    let mut work = Vec::new();
    let mut busy = Vec::new();
    for p in jobs.filter(|p| p.job.verb != Verb::Watch) {
        work.push(line(&p.job, p.since));
        busy.push(&p.job.subject);
    }
    for (subject, tries) in machine.tries().iter().filter(|(s, _)| !busy.contains(s)) {
        let verb = match subject {
            Subject::Exit(_) | Subject::Sandbox => Verb::Watch,
            Subject::Signal(_) => Verb::Kill { tries: 0 },
            Subject::Update(_) => Verb::Update,
            Subject::Pod(_) | Subject::Container(..) => Verb::Release,
        };
        work.push(line(&Job { subject: subject.clone(), verb }, tries.since));
    }
    work.sort_by(|a, b| a.step.cmp(&b.step));
    work
}

fn container_report(r: &PodRecord, c: &ContainerRecord) -> ContainerReport {
    let seen = container(r, c, false);
    ContainerReport {
        id: c.id.clone(),
        name: c.spec.spec.name.name.clone(),
        attempt: c.spec.spec.name.attempt,
        state: seen.state,
        wish: c.wish.name(),
        pid: seen.pid,
        exit: c.exit.clone(),
        holdings: ContainerHolding::ALL
            .iter()
            .map(|h| (h.name().to_owned(), c.status(*h).name()))
            .collect(),
    }
}
