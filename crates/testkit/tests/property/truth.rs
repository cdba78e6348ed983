//! The small model: what has been asked and answered, and so what lists may say.
//!
//! What is expected is widened before a call begins and narrowed once it is answered. So a list
//! that was asked for and answered while a version stood still must show exactly what is expected.

use std::collections::BTreeMap;

use berth_proto::cri::v1 as cri;
use cri::{ContainerState, PodSandboxState};

/// Names a pod or a container of the model.
pub(crate) type Key = usize;

/// What lists may say of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PodMay {
    /// Asked for, not answered, or its answer was not waited for.
    Unsaid,
    /// Answered.
    Ready,
    /// A stop is under way, or its answer was not waited for.
    Ending,
    /// Stopped.
    Stopped,
    /// A removal is under way.
    Going,
    /// Removed.
    Gone,
}

/// What lists may say of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContainerMay {
    /// Asked for, not answered.
    Unsaid,
    /// Created.
    Created,
    /// A start or a stop is under way, or calls race.
    Changing,
    /// Started.
    Running,
    /// Stopped after its start.
    Ended,
    /// Stopped without a start.
    Unstarted,
    /// A removal is under way.
    Going,
    /// Removed.
    Gone,
}

/// What a container's program does, and so how it may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// Waits for SIGTERM and exits 0.
    Idle,
    /// Ignores SIGTERM.
    Stubborn,
    /// Says something and exits by itself.
    Exits { code: i32, after_ms: u64 },
}

impl Program {
    /// Whether it may end though nobody stops it.
    pub(crate) fn ends(self) -> bool {
        matches!(self, Self::Exits { .. })
    }

    /// Whether a container that nothing happened to but a stop may have ended with this code.
    pub(crate) fn may_give(self, code: i32) -> bool {
        match self {
            // The signal came before the shell had its trap: it is PID 1 and does not mind, or in
            // the pod's PID namespace and dies of it.
            Self::Idle => [0, 137, 143].contains(&code),
            Self::Stubborn => code == 137,
            Self::Exits { code: own, .. } => [own, 137, 143].contains(&code),
        }
    }
}

/// A pod of the model.
#[derive(Clone, Debug)]
pub(crate) struct PodTruth {
    pub(crate) name: String,
    pub(crate) attempt: u32,
    pub(crate) id: Option<String>,
    pub(crate) may: PodMay,
    /// A fault was put into it: it may be lost, and calls on it may fail.
    pub(crate) harmed: bool,
    pub(crate) ip: Option<String>,
    version: u64,
}

/// A container of the model.
#[derive(Clone, Debug)]
pub(crate) struct ContainerTruth {
    pub(crate) pod: Key,
    pub(crate) name: String,
    pub(crate) program: Program,
    pub(crate) id: Option<String>,
    pub(crate) may: ContainerMay,
    pub(crate) harmed: bool,
    /// The pid and start time of its first process, once they were seen.
    pub(crate) process: Option<(u32, String)>,
    /// The code and time of its end, once they were seen.
    pub(crate) exit: Option<(i32, i64)>,
    version: u64,
}

/// The model.
#[derive(Clone, Debug, Default)]
pub(crate) struct Truth {
    pods: BTreeMap<Key, PodTruth>,
    containers: BTreeMap<Key, ContainerTruth>,
    next: Key,
}

impl Truth {
    /// A pod that is about to be asked for.
    pub(crate) fn new_pod(&mut self, name: &str, attempt: u32) -> Key {
        self.next += 1;
        let pod = PodTruth {
            name: name.to_owned(),
            attempt,
            id: None,
            may: PodMay::Unsaid,
            harmed: false,
            ip: None,
            version: 0,
        };
        self.pods.insert(self.next, pod);
        self.next
    }

    /// A container that is about to be asked for.
    pub(crate) fn new_container(&mut self, pod: Key, name: &str, program: Program) -> Key {
        self.next += 1;
        let container = ContainerTruth {
            pod,
            name: name.to_owned(),
            program,
            id: None,
            may: ContainerMay::Unsaid,
            harmed: false,
            process: None,
            exit: None,
            version: 0,
        };
        self.containers.insert(self.next, container);
        self.next
    }

    /// A pod.
    pub(crate) fn pod(&self, key: Key) -> &PodTruth {
        &self.pods[&key]
    }

    /// A container.
    pub(crate) fn container(&self, key: Key) -> &ContainerTruth {
        &self.containers[&key]
    }

    /// Whether faults may show in a container.
    pub(crate) fn harmed(&self, key: Key) -> bool {
        let container = &self.containers[&key];
        container.harmed || self.pods[&container.pod].harmed
    }

    /// Changes what is expected of a pod. What ends with it ends in its containers too.
    pub(crate) fn change_pod(&mut self, key: Key, change: impl FnOnce(&mut PodTruth)) {
        let Some(pod) = self.pods.get_mut(&key) else { return };
        change(pod);
        pod.version += 1;
        let may = pod.may;
        for container in self.containers.values_mut().filter(|one| one.pod == key) {
            use ContainerMay as C;
            container.version += 1;
            container.may = match (may, container.may) {
                (PodMay::Gone, _) | (_, C::Gone) => C::Gone,
                (PodMay::Going, _) | (_, C::Going) => C::Going,
                (PodMay::Ending, C::Running) => C::Changing,
                (PodMay::Stopped, C::Running) => C::Ended,
                (_, other) => other,
            };
        }
    }

    /// Changes what is expected of a container.
    pub(crate) fn change(&mut self, key: Key, change: impl FnOnce(&mut ContainerTruth)) {
        if let Some(container) = self.containers.get_mut(&key) {
            change(container);
            container.version += 1;
        }
    }

    /// The pod that has this address now, if another one has.
    pub(crate) fn with_address(&self, ip: &str, not: Key) -> Option<&PodTruth> {
        let holds = |pod: &&PodTruth| pod.may == PodMay::Ready && !pod.harmed;
        let others = self.pods.iter().filter(|(key, _)| **key != not).map(|(_, pod)| pod);
        others.filter(holds).find(|pod| pod.ip.as_deref() == Some(ip))
    }

    /// Whether an id was ever another pod's or container's.
    pub(crate) fn knows(&self, id: &str, not: Key) -> bool {
        let mine = |key: &Key, own: &Option<String>| *key != not && own.as_deref() == Some(id);
        self.pods.iter().any(|(key, pod)| mine(key, &pod.id))
            || self.containers.iter().any(|(key, one)| mine(key, &one.id))
    }
}

/// What was listed, and the model before and after.
pub(crate) struct Look<'a> {
    pub(crate) before: &'a Truth,
    pub(crate) after: &'a Truth,
    pub(crate) pods: &'a [cri::PodSandbox],
    pub(crate) containers: &'a [cri::Container],
}

impl Look<'_> {
    /// Everything in the lists that breaks a promise.
    pub(crate) fn broken(&self) -> Vec<String> {
        let mut broken = self.twice();
        let stable = |key: &Key| {
            let (before, after) = (self.before.pods.get(key), self.after.pods.get(key));
            matches!((before, after), (Some(b), Some(a)) if b.version == a.version)
        };
        for (key, pod) in self.before.pods.iter().filter(|(key, _)| stable(key)) {
            broken.extend(self.pod(*key, pod));
        }
        for (key, one) in &self.before.containers {
            let same = self.after.containers[key].version == one.version;
            if same && stable(&one.pod) {
                broken.extend(self.container(*key, one));
            }
        }
        broken.extend(self.unknown());
        broken
    }

    fn twice(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for (at, pod) in self.pods.iter().enumerate() {
            if self.pods[..at].iter().any(|other| other.metadata == pod.metadata) {
                broken.push(format!("{:?} is listed twice: {:#?}", pod.metadata, self.pods));
            }
        }
        for (at, one) in self.containers.iter().enumerate() {
            let same = |other: &cri::Container| {
                other.id == one.id
                    || (other.metadata == one.metadata
                        && other.pod_sandbox_id == one.pod_sandbox_id)
            };
            if self.containers[..at].iter().any(same) {
                broken.push(format!("container {} ({:?}) is listed twice", one.id, one.metadata));
            }
        }
        broken
    }

    fn pod(&self, _: Key, pod: &PodTruth) -> Option<String> {
        let id = pod.id.as_deref()?;
        let found = self.pods.iter().find(|one| one.id == id);
        let state = found.map(cri::PodSandbox::state);
        let fine = match pod.may {
            PodMay::Unsaid | PodMay::Going => true,
            PodMay::Ready if pod.harmed => state.is_some(),
            PodMay::Ready => state == Some(PodSandboxState::SandboxReady),
            PodMay::Ending => state.is_some(),
            PodMay::Stopped => state == Some(PodSandboxState::SandboxNotready),
            PodMay::Gone => state.is_none(),
        };
        (!fine).then(|| format!("pod {} is listed as {state:?} and is {pod:?}", pod.name))
    }

    fn container(&self, key: Key, one: &ContainerTruth) -> Option<String> {
        use ContainerState as S;
        let id = one.id.as_deref()?;
        let found = self.containers.iter().find(|listed| listed.id == id);
        let state = found.map(cri::Container::state);
        let harmed = self.before.harmed(key);
        let fine = match one.may {
            ContainerMay::Unsaid | ContainerMay::Going => true,
            ContainerMay::Gone => state.is_none(),
            ContainerMay::Changing => state.is_some(),
            _ if harmed => state.is_some(),
            ContainerMay::Created | ContainerMay::Unstarted => {
                let over = self.before.pods[&one.pod].may != PodMay::Ready;
                state == Some(S::ContainerCreated)
                    || (state == Some(S::ContainerExited)
                        && (over || one.may == ContainerMay::Unstarted))
            }
            ContainerMay::Running => {
                state == Some(S::ContainerRunning)
                    || (state == Some(S::ContainerExited) && one.program.ends())
            }
            ContainerMay::Ended => state == Some(S::ContainerExited),
        };
        let fine = fine && !(one.exit.is_some() && state == Some(S::ContainerRunning));
        (!fine).then(|| format!("container {} is listed as {state:?} and is {one:?}", one.name))
    }

    /// What is listed and was never asked for, or is another than what was answered.
    fn unknown(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for listed in self.pods {
            let name = listed.metadata.clone().unwrap_or_default();
            let known = self.after.pods.values().any(|pod| {
                let same = pod.name == name.name && pod.attempt == name.attempt;
                let open = matches!(pod.may, PodMay::Unsaid | PodMay::Going | PodMay::Gone);
                same && (pod.id.as_deref() == Some(&listed.id) || pod.id.is_none() || open)
            });
            if !known {
                broken.push(format!("nobody was told of the pod {listed:?}"));
            }
        }
        for listed in self.containers {
            let name = listed.metadata.clone().unwrap_or_default().name;
            let known = self.after.containers.values().any(|one| {
                let told = one.id.as_deref() == Some(&listed.id) || one.id.is_none();
                one.name == name && (told || one.may == ContainerMay::Unsaid)
            });
            if !known {
                broken.push(format!("nobody was told of the container {listed:?}"));
            }
        }
        broken
    }
}
