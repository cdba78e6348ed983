//! What lists and status are answered from: a picture of each pod, published by its task after
//! every change and read without waiting for anybody.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use berth_pod::record::{Exit, Lost, PodRecord};
use berth_pod::spec::{Admitted, ContainerSpec, ImageFacts, ResolvedUser, Resources, SandboxSpec};
use berth_pod::{ContainerId, SandboxId};
use serde::Serialize;

/// A pod as it stands.
#[derive(Clone, Debug)]
pub struct PodView {
    /// Its id.
    pub id: SandboxId,
    /// What was asked for.
    pub spec: Arc<Admitted<SandboxSpec>>,
    /// The handler it runs by, by its configured name.
    pub handler: String,
    /// SANDBOX_READY.
    pub ready: bool,
    /// Shown in lists: its creation has been answered, or its roll-back cannot finish.
    pub listed: bool,
    /// When it was created, ns since the epoch.
    pub created_at: i64,
    /// Addresses on the pod network, the pod's own first; none on the host network.
    pub ips: Vec<IpAddr>,
    /// The pod's cgroup, relative to each hierarchy's root.
    pub cgroup: Option<String>,
    /// The pod's network namespace; none on the host network.
    pub netns: Option<PathBuf>,
    /// The process that stands for the sandbox, where it has one.
    pub pid: Option<u32>,
    /// Why it is not ready though nobody asked it to stop.
    pub lost: Option<Lost>,
    /// Its containers, those not listed left out.
    pub containers: Vec<Arc<ContainerView>>,
    /// The record as it stood: a handle for uses outside the pod's queue.
    pub record: Arc<PodRecord>,
}

/// A container's state, derived from facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerState {
    /// Created, never started.
    Created,
    /// Running.
    Running,
    /// Exited, or its start failed.
    Exited,
    /// Its shim does not answer.
    Unknown,
}

/// A container as it stands.
#[derive(Clone, Debug)]
pub struct ContainerView {
    /// Its id.
    pub id: ContainerId,
    /// Its pod.
    pub sandbox: SandboxId,
    /// What was asked for.
    pub spec: Arc<Admitted<ContainerSpec>>,
    /// Its limits as they stand, updates included.
    pub resources: Resources,
    /// What it takes from its image.
    pub image: ImageFacts,
    /// Whom it runs as.
    pub user: ResolvedUser,
    /// State.
    pub state: ContainerState,
    /// When it was created, ns since the epoch.
    pub created_at: i64,
    /// When it was started.
    pub started_at: Option<i64>,
    /// How it ended.
    pub exit: Option<Exit>,
    /// Its first process, while it runs.
    pub pid: Option<u32>,
    /// Its cgroup, relative to each hierarchy's root.
    pub cgroup: String,
}

/// The whole node for the operator: `berth status`.
#[derive(Clone, Debug, Serialize)]
pub struct NodeReport {
    /// Every pod, those not listed included.
    pub pods: Vec<PodReport>,
    /// What could not be released and is still tried.
    pub leftovers: Vec<LeftoverReport>,
}

/// One pod for the operator.
#[derive(Clone, Debug, Serialize)]
pub struct PodReport {
    /// Its id.
    pub id: SandboxId,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Pod name.
    pub name: String,
    /// Attempt.
    pub attempt: u32,
    /// Handler.
    pub handler: String,
    /// READY.
    pub ready: bool,
    /// Listed to the kubelet.
    pub listed: bool,
    /// The wish: run, stop or remove.
    pub wish: &'static str,
    /// Why creation failed, or why it is lost.
    pub trouble: Option<String>,
    /// Each holding and its state: absent, intended, held.
    pub holdings: Vec<(String, &'static str)>,
    /// Work in progress.
    pub jobs: Vec<JobReport>,
    /// Containers.
    pub containers: Vec<ContainerReport>,
}

/// One container for the operator.
#[derive(Clone, Debug, Serialize)]
pub struct ContainerReport {
    /// Its id.
    pub id: ContainerId,
    /// Name.
    pub name: String,
    /// Attempt.
    pub attempt: u32,
    /// State.
    pub state: ContainerState,
    /// The wish: create, run, stop or remove.
    pub wish: &'static str,
    /// First process.
    pub pid: Option<u32>,
    /// How it ended.
    pub exit: Option<Exit>,
    /// Each holding and its state.
    pub holdings: Vec<(String, &'static str)>,
}

/// Work in progress: which step, on what, for how long.
#[derive(Clone, Debug, Serialize)]
pub struct JobReport {
    /// The step, such as `acquire.network`.
    pub step: String,
    /// The container it concerns.
    pub container: Option<ContainerId>,
    /// Age, ms.
    pub age_ms: u64,
    /// When it began, ns since the epoch.
    #[serde(skip)]
    pub since: i64,
    /// Tries so far that failed.
    pub failures: u32,
    /// The last failure.
    pub last_error: Option<String>,
}

/// Something that could not be released and is still tried.
#[derive(Clone, Debug, Serialize)]
pub struct LeftoverReport {
    /// Whose it was.
    pub pod: SandboxId,
    /// The container's, if it was one's.
    pub container: Option<ContainerId>,
    /// Which holding.
    pub holding: String,
    /// Why it could not be released.
    pub error: String,
    /// Since when, ns since the epoch.
    pub since: i64,
    /// Tries so far.
    pub tries: u32,
}
