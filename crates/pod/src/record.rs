//! What is saved of a pod: its wish, its facts, and what it holds. One record, one row.
//!
//! State is derived from facts (`exit`, `started`, `answered`, …) and never stored beside them.

mod facts;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Kind;
use crate::holding::{ContainerHolding, Holding, PodHolding};
use crate::id::{ContainerId, SandboxId};
use crate::job::Subject;
use crate::spec::{Admitted, ContainerSpec, Resources, SandboxSpec};

pub use facts::{
    CgroupFact, ContainerFact, FilesFact, ImageHeld, NamespacesFact, NetworkFact, PodFact,
    RootfsFact, SandboxFact, ShimFact, TaskFact, VolumeHeld,
};

/// One holding: what is known of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Slot<F> {
    /// Not held, and no try has been made since it was last let go.
    #[default]
    Absent,
    /// The intent is saved: it may be there, wholly, in part, or not at all.
    Intended,
    /// It is there, with these facts. Jobs and pictures keep records as they stood, for as long as a
    /// pod lives: the facts are not copied for each.
    Held(Arc<F>),
}

/// A slot without its facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Status {
    /// Not held.
    Absent,
    /// Perhaps there.
    Intended,
    /// There.
    Held,
}

impl Status {
    /// Its name in status output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Intended => "intended",
            Self::Held => "held",
        }
    }
}

impl<F> Slot<F> {
    /// The slot without its facts.
    pub fn status(&self) -> Status {
        match self {
            Self::Absent => Status::Absent,
            Self::Intended => Status::Intended,
            Self::Held(_) => Status::Held,
        }
    }

    /// The facts, when it is held.
    pub fn held(&self) -> Option<&F> {
        match self {
            Self::Held(fact) => Some(fact),
            _ => None,
        }
    }
}

/// What is wished of a pod. A wish only ever grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PodWish {
    /// Everything held.
    Run,
    /// Nothing but what ends at removal.
    Stop,
    /// Nothing, and then no record.
    Remove,
}

impl PodWish {
    /// Its name in status output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Stop => "stop",
            Self::Remove => "remove",
        }
    }
}

/// What is wished of a container. A wish only ever grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerWish {
    /// Everything up to the bundle.
    Create,
    /// The task too.
    Run,
    /// No process.
    Stop,
    /// Nothing, and then no entry in the record.
    Remove,
}

impl ContainerWish {
    /// Its name in status output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Run => "run",
            Self::Stop => "stop",
            Self::Remove => "remove",
        }
    }
}

/// A failure worth keeping: the creation that it ended is rolled back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What sort.
    pub kind: Kind,
    /// What was attempted, on what, and why not.
    pub message: String,
}

impl Failure {
    /// A failure.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// Why a pod is not ready though nobody asked it to stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lost {
    /// The node was rebooted: nothing under /run is left.
    Reboot,
    /// The shim is dead.
    Shim(String),
    /// The sandbox's own process has exited.
    Sandbox(String),
}

impl Lost {
    /// A sentence for messages.
    pub fn reason(&self) -> String {
        match self {
            Self::Reboot => "the node was rebooted while the container existed".to_owned(),
            Self::Shim(why) => format!("the pod's shim died: {why}"),
            Self::Sandbox(why) => format!("the pod's sandbox ended: {why}"),
        }
    }

    /// Is there a shim that could still be asked?
    pub fn shim_is_gone(&self) -> bool {
        matches!(self, Self::Reboot | Self::Shim(_))
    }
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 + n for signal n.
    pub code: i32,
    /// When, ns since the epoch.
    pub at: i64,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, …
    pub reason: String,
    /// For people.
    pub message: String,
}

/// A container's part of the record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Its id.
    pub id: ContainerId,
    /// What was asked for.
    pub spec: Arc<Admitted<ContainerSpec>>,
    /// Its limits as they stand, updates included.
    pub resources: Resources,
    /// A change of the limits that is not yet true: those to go back to if it fails.
    pub changing: Option<Resources>,
    /// When its creation was asked for, ns since the epoch.
    pub created_at: i64,
    /// The wish.
    pub wish: ContainerWish,
    /// Its creation has been answered: it is listed from then on.
    pub answered: bool,
    /// Why its creation is being rolled back.
    pub failure: Option<Failure>,
    /// A stop that was asked for.
    pub stop: Option<Stop>,
    /// When it was started; stays after its exit.
    pub started_at: Option<i64>,
    /// How it ended.
    pub exit: Option<Exit>,
    /// The reference to its image, with what was taken from it.
    pub image: Slot<ImageHeld>,
    /// The snapshot.
    pub rootfs: Slot<RootfsFact>,
    /// The bundle.
    pub bundle: Slot<()>,
    /// The cgroup's path; saved before the runtime makes it.
    pub cgroup: Slot<String>,
    /// The task.
    pub task: Slot<TaskFact>,
}

/// A stop under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// When the grace ends, ns since the epoch.
    pub kill_at: i64,
    /// The stop signal: sent once, unless nobody knows whether it was sent.
    #[serde(default)]
    pub signal: StopSignal,
}

/// What has become of a stop signal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StopSignal {
    /// It is to be sent.
    #[default]
    Due,
    /// The intent is saved: it is being sent.
    Intended,
    /// It has got out, or may have.
    Sent,
}

/// What a pod may use as a whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PodResources {
    /// Of the runtime itself (RuntimeClass overhead).
    pub overhead: Option<Resources>,
    /// The sum of the containers'.
    pub containers: Option<Resources>,
}

/// Everything saved of a pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PodRecord {
    /// Its id.
    pub id: SandboxId,
    /// The boot that its holdings belong to (/proc/sys/kernel/random/boot_id).
    pub boot_id: String,
    /// What was asked for.
    pub spec: Arc<Admitted<SandboxSpec>>,
    /// The configured handler it runs by.
    pub handler: String,
    /// The settings of that handler when the pod was begun: the name that they are kept under.
    /// "" of a pod of a version that kept none.
    #[serde(default)]
    pub settings: String,
    /// When its creation was asked for, ns since the epoch.
    pub created_at: i64,
    /// Its resources, once they have been changed: until then they are those of `spec`.
    #[serde(default)]
    pub changed: Option<PodResources>,
    /// The wish.
    pub wish: PodWish,
    /// Its creation has been answered: it is listed from then on.
    pub answered: bool,
    /// Why its creation is being rolled back.
    pub failure: Option<Failure>,
    /// Why it is not ready though nobody asked it to stop.
    pub lost: Option<Lost>,
    /// The cgroup.
    pub cgroup: Slot<CgroupFact>,
    /// The namespaces.
    pub namespaces: Slot<NamespacesFact>,
    /// The files.
    pub files: Slot<FilesFact>,
    /// The network.
    pub network: Slot<NetworkFact>,
    /// The shim.
    pub shim: Slot<ShimFact>,
    /// The sandbox.
    pub sandbox: Slot<SandboxFact>,
    /// The containers. Each is shared by the pictures of the pod that are the same but for others.
    pub containers: BTreeMap<ContainerId, Arc<ContainerRecord>>,
}

/// What could not be released though its pod has been let go: tried again until it works.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Leftover {
    /// Whose it was.
    pub pod: SandboxId,
    /// The container's, if it was one's.
    pub container: Option<ContainerId>,
    /// Which holding, by name (`network`, `rootfs`, …).
    pub holding: String,
    /// Why it could not be released.
    pub error: String,
    /// Since when, ns since the epoch.
    pub since: i64,
    /// The boot it belongs to.
    pub boot_id: String,
    /// What its release needs to know, apart from ids: the pod's record as it stood.
    pub record: Arc<PodRecord>,
}

impl PodRecord {
    /// A record of a pod that holds nothing yet.
    pub fn new(
        id: SandboxId,
        boot_id: String,
        spec: Admitted<SandboxSpec>,
        handler: String,
        now: i64,
    ) -> Self {
        Self {
            id,
            boot_id,
            spec: Arc::new(spec),
            handler,
            settings: String::new(),
            changed: None,
            created_at: now,
            wish: PodWish::Run,
            answered: false,
            failure: None,
            lost: None,
            cgroup: Slot::Absent,
            namespaces: Slot::Absent,
            files: Slot::Absent,
            network: Slot::Absent,
            shim: Slot::Absent,
            sandbox: Slot::Absent,
            containers: BTreeMap::new(),
        }
    }

    /// A container's part, to be changed: what others hold of it stays as it was.
    pub fn container_mut(&mut self, id: &ContainerId) -> Option<&mut ContainerRecord> {
        self.containers.get_mut(id).map(Arc::make_mut)
    }

    /// Its resources as they stand.
    pub fn resources(&self) -> PodResources {
        self.changed.clone().unwrap_or_else(|| {
            let spec = &self.spec.spec;
            PodResources { overhead: spec.overhead.clone(), containers: spec.resources.clone() }
        })
    }

    /// The state of one holding.
    pub fn status(&self, holding: PodHolding) -> Status {
        match holding {
            PodHolding::Cgroup => self.cgroup.status(),
            PodHolding::Namespaces => self.namespaces.status(),
            PodHolding::Files => self.files.status(),
            PodHolding::Network => self.network.status(),
            PodHolding::Shim => self.shim.status(),
            PodHolding::Sandbox => self.sandbox.status(),
        }
    }

    /// The state of the holding that this is; of anything else, absent.
    pub fn status_of(&self, subject: &Subject) -> Status {
        match subject {
            Subject::Pod(h) => self.status(*h),
            Subject::Container(id, h) => {
                self.containers.get(id).map_or(Status::Absent, |c| c.status(*h))
            }
            _ => Status::Absent,
        }
    }

    /// Marks one holding intended, or absent.
    pub fn set(&mut self, holding: PodHolding, intended: bool) {
        fn put<F>(slot: &mut Slot<F>, intended: bool) {
            *slot = if intended { Slot::Intended } else { Slot::Absent };
        }
        match holding {
            PodHolding::Cgroup => put(&mut self.cgroup, intended),
            PodHolding::Namespaces => put(&mut self.namespaces, intended),
            PodHolding::Files => put(&mut self.files, intended),
            PodHolding::Network => put(&mut self.network, intended),
            PodHolding::Shim => put(&mut self.shim, intended),
            PodHolding::Sandbox => put(&mut self.sandbox, intended),
        }
    }

    /// Marks one holding held, with its facts.
    pub fn hold(&mut self, fact: PodFact) {
        match fact {
            PodFact::Cgroup(fact) => self.cgroup = Slot::Held(Arc::new(fact)),
            PodFact::Namespaces(fact) => self.namespaces = Slot::Held(Arc::new(fact)),
            PodFact::Files(fact) => self.files = Slot::Held(Arc::new(fact)),
            PodFact::Network(fact) => self.network = Slot::Held(Arc::new(fact)),
            PodFact::Shim(fact) => self.shim = Slot::Held(Arc::new(fact)),
            PodFact::Sandbox(fact) => self.sandbox = Slot::Held(Arc::new(fact)),
        }
    }

    /// Everything held, nothing lost, nobody asked it to stop: SANDBOX_READY.
    pub fn ready(&self) -> bool {
        self.wish == PodWish::Run
            && self.failure.is_none()
            && self.lost.is_none()
            && PodHolding::ALL.iter().all(|h| self.status(*h) == Status::Held)
    }
}

impl ContainerRecord {
    /// A record of a container that holds nothing yet.
    pub fn new(id: ContainerId, spec: Admitted<ContainerSpec>, now: i64) -> Self {
        Self {
            id,
            resources: spec.spec.resources.clone(),
            changing: None,
            spec: Arc::new(spec),
            created_at: now,
            wish: ContainerWish::Create,
            answered: false,
            failure: None,
            stop: None,
            started_at: None,
            exit: None,
            image: Slot::Absent,
            rootfs: Slot::Absent,
            bundle: Slot::Absent,
            cgroup: Slot::Absent,
            task: Slot::Absent,
        }
    }

    /// The state of one holding.
    pub fn status(&self, holding: ContainerHolding) -> Status {
        match holding {
            ContainerHolding::Image => self.image.status(),
            ContainerHolding::Rootfs => self.rootfs.status(),
            ContainerHolding::Bundle => self.bundle.status(),
            ContainerHolding::Cgroup => self.cgroup.status(),
            ContainerHolding::Task => self.task.status(),
        }
    }

    /// Marks one holding intended, or absent.
    pub fn set(&mut self, holding: ContainerHolding, intended: bool) {
        fn put<F>(slot: &mut Slot<F>, intended: bool) {
            *slot = if intended { Slot::Intended } else { Slot::Absent };
        }
        match holding {
            ContainerHolding::Image => put(&mut self.image, intended),
            ContainerHolding::Rootfs => put(&mut self.rootfs, intended),
            ContainerHolding::Bundle => put(&mut self.bundle, intended),
            ContainerHolding::Cgroup => put(&mut self.cgroup, intended),
            ContainerHolding::Task => put(&mut self.task, intended),
        }
    }

    /// Marks one holding held, with its facts.
    pub fn hold(&mut self, fact: ContainerFact) {
        match fact {
            ContainerFact::Image(fact) => self.image = Slot::Held(fact),
            ContainerFact::Rootfs(fact) => self.rootfs = Slot::Held(Arc::new(fact)),
            ContainerFact::Bundle(limits) => {
                self.bundle = Slot::Held(Arc::default());
                limits.into_iter().for_each(|limits| self.resources = *limits);
            }
            ContainerFact::Cgroup(path) => self.cgroup = Slot::Held(Arc::new(path)),
            ContainerFact::Task(fact) => {
                self.started_at = Some(fact.started_at);
                self.task = Slot::Held(Arc::new(fact));
            }
        }
    }

    /// Created whole: everything up to the bundle is held.
    pub fn created(&self) -> bool {
        let up_to_bundle =
            [ContainerHolding::Image, ContainerHolding::Rootfs, ContainerHolding::Bundle];
        up_to_bundle.iter().all(|h| self.status(*h) == Status::Held)
    }

    /// A task runs.
    pub fn running(&self) -> bool {
        self.exit.is_none() && self.task.status() == Status::Held
    }

    /// No process of it can be alive.
    pub fn quiet(&self) -> bool {
        self.task.status() == Status::Absent && self.cgroup.status() == Status::Absent
    }
}
