//! What each call means in each state: answered at once, joined, begun, or refused.

use crate::Kind;
use crate::holding::ContainerHolding;
use crate::record::{ContainerRecord, ContainerWish, Failure, PodRecord, PodWish, Status};

/// What to do with a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is done already: answer now.
    Done,
    /// State the wish, if it is not stated yet, and wait with whoever waits already.
    Wait,
    /// Roll back what is there, then begin anew.
    Anew,
    /// Refuse.
    Refuse(Failure),
}

fn refuse(kind: Kind, message: String) -> Verdict {
    Verdict::Refuse(Failure::new(kind, message))
}

/// RunPodSandbox under a name that this pod has.
pub fn run_sandbox(pod: &PodRecord, digest: &str) -> Verdict {
    let same = pod.spec.digest == digest;
    match (pod.answered, same) {
        (false, true) if pod.wish == PodWish::Run && pod.failure.is_none() => Verdict::Wait,
        (false, _) => Verdict::Anew,
        (true, true) if pod.ready() => Verdict::Done,
        (true, true) => refuse(
            Kind::WrongState,
            format!(
                "sandbox {} has this name and is no longer ready: remove it, or use the next attempt",
                pod.id
            ),
        ),
        (true, false) => refuse(
            Kind::Exists,
            format!(
                "sandbox {} has this name with another configuration: remove it, or use the next attempt",
                pod.id
            ),
        ),
    }
}

/// Why no container can be created or started in this pod, if so.
pub fn not_ready(pod: &PodRecord) -> Option<Failure> {
    if pod.ready() && pod.answered {
        return None;
    }
    let why = match (&pod.lost, pod.wish) {
        (_, PodWish::Stop | PodWish::Remove) => "it has been stopped".to_owned(),
        (Some(lost), _) => lost.reason(),
        (None, PodWish::Run) => "its creation is not finished".to_owned(),
    };
    Some(Failure::new(Kind::WrongState, format!("sandbox {} is not ready: {why}", pod.id)))
}

/// CreateContainer under a name that this container has.
pub fn create_container(c: &ContainerRecord, digest: &str) -> Verdict {
    let same = c.spec.digest == digest;
    let fresh = c.wish == ContainerWish::Create && c.failure.is_none();
    match (c.answered, same) {
        (false, true) if fresh => Verdict::Wait,
        (false, _) => Verdict::Anew,
        (true, true) if fresh && c.exit.is_none() => Verdict::Done,
        (true, true) => refuse(
            Kind::WrongState,
            format!("container {} has this name and has been started: use the next attempt", c.id),
        ),
        (true, false) => refuse(
            Kind::Exists,
            format!(
                "container {} has this name with another configuration: remove it, or use the next attempt",
                c.id
            ),
        ),
    }
}

/// StartContainer.
pub fn start_container(pod: &PodRecord, c: &ContainerRecord) -> Verdict {
    if let Some(exit) = &c.exit {
        return refuse(
            Kind::WrongState,
            format!(
                "container {} has exited already ({}): create a new attempt",
                c.id, exit.reason
            ),
        );
    }
    match c.wish {
        ContainerWish::Stop | ContainerWish::Remove => {
            refuse(Kind::WrongState, format!("container {} is being stopped", c.id))
        }
        ContainerWish::Run if c.task.status() == Status::Held => Verdict::Done,
        ContainerWish::Run => Verdict::Wait,
        ContainerWish::Create => match not_ready(pod) {
            Some(failure) => Verdict::Refuse(failure),
            None => Verdict::Wait,
        },
    }
}

/// StopContainer: one that was never started has nothing to stop.
pub fn stop_container(c: &ContainerRecord) -> Verdict {
    let nothing =
        c.wish == ContainerWish::Create && c.status(ContainerHolding::Task) == Status::Absent;
    if c.exit.is_some() || nothing { Verdict::Done } else { Verdict::Wait }
}

/// UpdateContainerResources.
pub fn update_container(c: &ContainerRecord) -> Verdict {
    if c.exit.is_some() || c.wish >= ContainerWish::Stop {
        return refuse(
            Kind::WrongState,
            format!("container {} is stopped: its resources cannot be changed any more", c.id),
        );
    }
    Verdict::Wait
}
