//! What lists and status are answered from: a picture of each pod, published by its task after
//! every change and read without waiting for anybody.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use berth_oci::facts::GuestNetwork;
use berth_pod::record::{ContainerRecord, Exit, ImageHeld, PodRecord};
use berth_pod::spec::{ContainerSpec, SandboxSpec};
use berth_pod::{ContainerId, SandboxId};
use serde::Serialize;

use crate::effect::checkpoint::criu;
use crate::settings::{Handler, ShimKind};

/// A pod as it stands: its record, which pictures, jobs and the loop share, and what it does not say.
#[derive(Clone, Debug)]
pub struct PodView {
    /// The record as it stood: also a handle for uses outside the pod's queue.
    pub record: Arc<PodRecord>,
    /// Shown in lists: its creation has been answered, or its roll-back cannot finish.
    pub listed: bool,
    /// Its containers, those not listed left out.
    pub containers: Vec<Arc<ContainerView>>,
}

impl PodView {
    /// Its id.
    pub fn id(&self) -> &SandboxId {
        &self.record.id
    }

    /// What was asked for.
    pub fn spec(&self) -> &SandboxSpec {
        &self.record.spec.spec
    }

    /// Addresses on the pod network, the pod's own first; none on the host network.
    pub fn ips(&self) -> &[IpAddr] {
        self.record.network.held().map_or(&[], |network| &network.ips)
    }

    /// The pod's cgroup, relative to each hierarchy's root.
    pub fn cgroup(&self) -> Option<&str> {
        self.record.cgroup.held().map(|cgroup| cgroup.path.as_str())
    }

    /// The pod's network namespace; none on the host network.
    pub fn netns(&self) -> Option<&Path> {
        self.record.namespaces.held()?.net.as_deref()
    }

    /// The process that stands for the sandbox, where it has one.
    pub fn pid(&self) -> Option<u32> {
        self.record.sandbox.held()?.pid
    }
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

/// A container as it stands: its part of the record, and what that does not say.
#[derive(Clone, Debug)]
pub struct ContainerView {
    /// Its part of the record.
    pub record: Arc<ContainerRecord>,
    /// Its pod.
    pub sandbox: SandboxId,
    /// State.
    pub state: ContainerState,
    /// Listed though its creation failed: it is shown as ended in this way, so that it is removed.
    pub rolled_back: Option<Exit>,
}

impl ContainerView {
    /// Its id.
    pub fn id(&self) -> &ContainerId {
        &self.record.id
    }

    /// What was asked for.
    pub fn spec(&self) -> &ContainerSpec {
        &self.record.spec.spec
    }

    /// What it takes from its image, and whom it runs as; none before the image is held.
    pub fn image(&self) -> Option<&ImageHeld> {
        self.record.image.held()
    }

    /// How it ended.
    pub fn exit(&self) -> Option<&Exit> {
        self.record.exit.as_ref().or(self.rolled_back.as_ref())
    }

    /// Its first process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.record.task.held().filter(|_| self.record.running()).map(|task| task.pid)
    }

    /// Its cgroup, relative to each hierarchy's root; none while there can be no process in it.
    pub fn cgroup(&self) -> Option<&str> {
        self.record.cgroup.held().map(String::as_str)
    }
}

/// A handler for the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HandlerReport {
    /// Its name.
    pub name: String,
    /// It is the one for pods that ask for none.
    pub default: bool,
    /// Why it cannot be used; none if it can.
    pub broken: Option<String>,
    /// Its shim.
    pub shim: String,
    /// The OCI runtime that our own shim drives.
    pub runtime: String,
    /// It makes mounts read-only with all below them.
    pub recursive_read_only_mounts: bool,
    /// Its pods get user namespaces: it id-maps mounts, or has them mapped before.
    pub user_namespaces: bool,
    /// It runs privileged pods.
    pub privileged: bool,
    /// Checkpoints are written of its containers: its runtime says that it can, and CRIU is there.
    pub checkpoints: bool,
    /// Whose network stack its pods use, if they run on kernels of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_network: Option<GuestNetwork>,
}

impl HandlerReport {
    pub(crate) fn of(name: &str, default: bool, handler: &Handler) -> Self {
        let own = handler.kind == ShimKind::Berth && handler.facts.guest_network.is_none();
        let runtime = handler.runtime.as_ref().map(|runtime| runtime.display().to_string());
        Self {
            name: name.to_owned(),
            default,
            broken: None,
            shim: handler.shim.display().to_string(),
            runtime: runtime.unwrap_or_default(),
            recursive_read_only_mounts: handler.facts.recursive_read_only,
            user_namespaces: own || handler.facts.id_mapped_mounts,
            privileged: handler.privileged,
            checkpoints: handler.facts.checkpoint && criu(),
            guest_network: handler.facts.guest_network,
        }
    }
}

/// The whole node for the operator: `berth status`.
#[derive(Clone, Debug, Serialize)]
pub struct NodeReport {
    /// The handlers that pods can be begun with, broken ones included.
    pub handlers: Vec<HandlerReport>,
    /// Every pod, those not listed included.
    pub pods: Vec<PodReport>,
    /// What could not be released and is still tried.
    pub leftovers: Vec<LeftoverReport>,
    /// NRI plugins, those included that are gone.
    #[serde(default)]
    pub plugins: Vec<berth_nri::PluginReport>,
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
