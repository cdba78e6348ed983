//! What the daemon tells this crate about the node: places, handlers, limits.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use berth_oci::facts::{HandlerFacts, NodeFacts};

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
    /// Handlers by name.
    pub handlers: BTreeMap<String, Handler>,
    /// The handler that "" stands for.
    pub default_handler: String,
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
#[derive(Clone, Debug)]
pub struct Handler {
    /// The shim's binary.
    pub shim: PathBuf,
    /// The OCI runtime that our shim drives; none lets it choose.
    pub runtime: Option<PathBuf>,
    /// Where that runtime keeps its state.
    pub runtime_root: PathBuf,
    /// What its runtime can do, and what is passed on to it.
    pub facts: HandlerFacts,
}
