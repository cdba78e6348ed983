//! What the daemon tells this crate about the node: places, handlers, limits.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use berth_oci::facts::{HandlerFacts, NodeFacts};
use berth_shim_client::Any;
use serde::{Deserialize, Serialize};

/// Places and policies, as the daemon's configuration has them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// State that a reboot may take: bundles, pinned namespaces, shm. `/run/berth`.
    pub state_dir: PathBuf,
    /// State that outlives a reboot: records, images. `/var/lib/berth`.
    pub root_dir: PathBuf,
    /// Where network namespaces are pinned. `/run/netns`.
    pub netns_dir: PathBuf,
    /// The `berth-helper` binary.
    pub helper: PathBuf,
    /// This daemon's own binary, which shims run to publish events.
    pub daemon: PathBuf,
    /// The cgroup below which Berth makes its own: jobs, shims, pods without a parent.
    pub cgroup_root: String,
    /// The slice of the pods without a parent, with the systemd driver.
    pub cgroup_slice: String,
    /// Facts of the node that specs are made with.
    pub node: NodeFacts,
    /// The node's host name.
    pub hostname: String,
    /// The resolv.conf that pods without DNS settings get a copy of.
    pub resolv_conf: PathBuf,
    /// The hosts file that pods get a copy of.
    pub hosts: PathBuf,
    /// Kernel parameters that pods with a network of their own start with.
    pub sysctls: BTreeMap<String, String>,
    /// Size of a pod's /dev/shm, bytes.
    pub shm_size: u64,
    /// `oom_score_adj` of shims.
    pub shim_oom_score_adj: Option<i16>,
    /// How long a mount's source may take to answer `stat`.
    pub stat_deadline: Duration,
    /// How long the helper may take to make or remove namespaces.
    pub helper_deadline: Duration,
}

/// A runtime handler: a shim, and what it is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Handler {
    /// The shim's binary.
    pub shim: PathBuf,
    /// Whose shim it is.
    pub kind: ShimKind,
    /// The OCI runtime that our shim drives; none lets it choose.
    pub runtime: Option<PathBuf>,
    /// Where that runtime keeps its state.
    pub runtime_root: PathBuf,
    /// What a shim by others is told, at `start` and with each task; none sends nothing.
    pub options: Option<ShimOptions>,
    /// How the shim is given the sandbox.
    pub sandbox: SandboxMode,
    /// It runs privileged pods.
    pub privileged: bool,
    /// Where its own CNI configurations lie; none: the node's.
    pub cni_conf_dir: Option<PathBuf>,
    /// The OCI spec that its containers begin with.
    pub base_spec: Option<serde_json::Value>,
    /// What its runtime can do, and what is passed on to it.
    pub facts: HandlerFacts,
}

/// Whose shim a handler has: what it takes as options, and whether it has our own services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShimKind {
    /// Berth's own: it writes the log itself and drives the OCI runtime that it is told.
    Berth,
    /// Any other: what the shim v2 contract says, and nothing more.
    Other,
}

/// How a shim is given the sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SandboxMode {
    /// By the Sandbox API where the shim has it, or else as a task.
    #[default]
    Auto,
    /// By the Sandbox API.
    Sandbox,
    /// As a task that runs the built-in pause.
    Task,
}

/// The options of a shim: an encoded message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimOptions {
    /// The message's type: `containerd.runc.v1.Options` or `runtimeoptions.v1.Options`.
    pub type_url: String,
    /// The message.
    pub value: Vec<u8>,
}

impl From<ShimOptions> for Any {
    fn from(options: ShimOptions) -> Any {
        Any { type_url: options.type_url, value: options.value }
    }
}

impl From<Any> for ShimOptions {
    fn from(options: Any) -> ShimOptions {
        ShimOptions { type_url: options.type_url, value: options.value }
    }
}
