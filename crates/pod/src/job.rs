//! Jobs: the effects that the loop starts, and what comes back of them.

use std::fmt;

use crate::holding::{ContainerHolding, Holding, PodHolding};
use crate::id::ContainerId;
use crate::record::{ContainerFact, Exit, Failure, Lost, PodFact};

/// What a job is about. There is at most one job for each.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// A holding of the pod.
    Pod(PodHolding),
    /// A holding of a container.
    Container(ContainerId, ContainerHolding),
    /// The life of the sandbox and its shim.
    Sandbox,
    /// The life of a container's task, up to its exit and the certainty of its death.
    Exit(ContainerId),
    /// A signal to a container's task.
    Signal(ContainerId),
    /// A change of a container's limits.
    Update(ContainerId),
}

impl Subject {
    /// The container it concerns, if it is one's.
    pub fn container(&self) -> Option<&ContainerId> {
        match self {
            Self::Pod(_) | Self::Sandbox => None,
            Self::Container(id, _) | Self::Exit(id) | Self::Signal(id) | Self::Update(id) => {
                Some(id)
            }
        }
    }
}

/// What a job does about its subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// Acquire the holding, adopting what an earlier try left.
    Acquire,
    /// Release the holding; absent is success.
    Release,
    /// Wait for an end that nobody asked for.
    Watch,
    /// Send the stop signal.
    Terminate,
    /// Kill, now; from the second time on also by the cgroup, reporting who remains.
    Kill {
        /// How many kills came before.
        tries: u32,
    },
    /// Make the saved limits true.
    Update,
}

/// One job.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Job {
    /// What it is about.
    pub subject: Subject,
    /// What it does.
    pub verb: Verb,
}

impl fmt::Display for Job {
    /// The step's name in logs, metrics and status: `acquire.network`, `kill.task`, …
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.verb {
            Verb::Acquire => "acquire",
            Verb::Release => "release",
            Verb::Watch => "watch",
            Verb::Terminate => "terminate",
            Verb::Kill { .. } => "kill",
            Verb::Update => "update",
        };
        let on = match &self.subject {
            Subject::Pod(h) => h.name(),
            Subject::Container(_, ContainerHolding::Cgroup) => "container-cgroup",
            Subject::Container(_, h) => h.name(),
            Subject::Sandbox => "sandbox",
            Subject::Exit(_) | Subject::Signal(_) => "task",
            Subject::Update(_) => "resources",
        };
        write!(f, "{verb}.{on}")
    }
}

/// What came of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acquired, with these facts of the pod.
    Pod(PodFact),
    /// Acquired, with these facts of the container.
    Container(ContainerFact),
    /// Released, sent, or changed.
    Done,
    /// It did not work.
    Failed(Failure),
    /// It did not work because a process lives that cannot be killed.
    Living(Failure),
    /// It did not work, and nothing that it was about is alive.
    Dead(Failure),
    /// It was aborted: its effect is there, or not, or in part.
    Aborted,
    /// The task has exited and nothing of it is alive.
    Exited(Exit),
    /// The sandbox or its shim has ended.
    Lost(Lost),
}
