//! The next step, as a pure function of a wish and a table of holdings.

use crate::holding::{ContainerHolding, Ends, Holding, PodHolding};
use crate::record::{ContainerRecord, ContainerWish, PodRecord, PodWish, Status};

/// What a wish says of one holding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// It is to be held.
    Hold,
    /// It is to be let go.
    Release,
    /// It stays as it is.
    Keep,
}

/// What to do about one holding now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<H> {
    /// Acquire it; its intent is saved first.
    Acquire(H),
    /// Release it.
    Release(H),
    /// Abort its acquisition: it is no longer wanted.
    Abort(H),
}

/// What is being done about one holding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// Nothing.
    Idle,
    /// It is being acquired.
    Acquiring,
    /// It is being released, or its acquisition aborted.
    Leaving,
}

/// The steps that can be taken now over one table.
///
/// `goal`, `status` and `busy` describe each holding; `may_acquire` and `may_release` add what
/// lies outside the table (a container's task needs its pod's sandbox).
pub fn steps<H: Holding>(
    goal: impl Fn(H) -> Goal,
    status: impl Fn(H) -> Status,
    busy: impl Fn(H) -> Busy,
    gate: &impl Fn(Step<H>) -> bool,
) -> Vec<Step<H>> {
    let mut steps = Vec::new();
    for &h in H::ALL {
        let step = match (goal(h), status(h), busy(h)) {
            (Goal::Release, _, Busy::Acquiring) => Step::Abort(h),
            (Goal::Hold, Status::Absent | Status::Intended, Busy::Idle) => Step::Acquire(h),
            (Goal::Release, Status::Intended | Status::Held, Busy::Idle) => Step::Release(h),
            _ => continue,
        };
        let open = match step {
            Step::Acquire(h) => h.needs().iter().all(|need| status(*need) == Status::Held),
            Step::Release(h) => H::ALL.iter().all(|other| {
                !other.needs().contains(&h)
                    || (status(*other) == Status::Absent && busy(*other) == Busy::Idle)
            }),
            Step::Abort(_) => true,
        };
        if open && gate(step) {
            steps.push(step);
        }
    }
    steps
}

/// What can be intended together with a step that is taken now: all that is wanted and absent, so
/// that one save holds the intents of a whole chain.
pub fn ahead<H: Holding>(
    goal: impl Fn(H) -> Goal,
    status: impl Fn(H) -> Status,
    gate: &impl Fn(Step<H>) -> bool,
) -> Vec<H> {
    let held = |h: H| h.needs().iter().all(|need| status(*need) == Status::Held);
    let wanted = |h: &H| {
        let absent = goal(*h) == Goal::Hold && status(*h) == Status::Absent;
        absent && (h.may_be_ahead() || held(*h))
    };
    H::ALL.iter().copied().filter(|h| wanted(h) && gate(Step::Acquire(*h))).collect()
}

/// What a pod's wish says of one of its holdings.
pub fn pod_goal(pod: &PodRecord, holding: PodHolding) -> Goal {
    match (pod.wish, holding.ends()) {
        (PodWish::Remove, _) | (PodWish::Stop, Ends::AtExit | Ends::AtStop) => Goal::Release,
        (PodWish::Stop, Ends::AtRemove) => Goal::Keep,
        (PodWish::Run, _) if pod.lost.is_some() => Goal::Keep,
        (PodWish::Run, _) => Goal::Hold,
    }
}

/// What a container's wish says of one of its holdings.
///
/// A running task is never released: it is signalled, and its exit makes it releasable.
pub fn container_goal(c: &ContainerRecord, holding: ContainerHolding) -> Goal {
    let at_exit = holding.ends() == Ends::AtExit;
    if at_exit && c.running() && c.wish >= ContainerWish::Stop {
        return Goal::Keep;
    }
    match c.wish {
        ContainerWish::Remove => Goal::Release,
        _ if at_exit && c.exit.is_some() => Goal::Release,
        ContainerWish::Stop if at_exit => Goal::Release,
        ContainerWish::Run => Goal::Hold,
        ContainerWish::Create if !at_exit => Goal::Hold,
        ContainerWish::Create => Goal::Release,
        ContainerWish::Stop => Goal::Keep,
    }
}
