//! What the services are made of; `berth` puts it together.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use berth_cgroup::Cgroups;
use berth_image::Store;
use berth_lifecycle::Node;

/// Everything the services need.
pub struct Parts {
    /// The pods.
    pub node: Node,
    /// The images.
    pub images: Store,
    /// Where the clients of Exec, Attach and PortForward are served; or why they are not.
    pub streaming: Result<berth_streaming::Server, String>,
    /// The kernel's figures.
    pub cgroups: Cgroups,
    /// The cgroup driver is systemd.
    pub systemd_cgroups: bool,
    /// Pods may have a user namespace of their own: the kernel id-maps the layers of images.
    pub user_namespaces: bool,
    /// Of which checkpoints containers are made.
    pub restore: Restore,
    /// Berth's version.
    pub version: &'static str,
    /// Answered as `info["config"]` of a verbose Status.
    pub config: serde_json::Value,
    /// How the node is: from memory once it is known, which takes a moment after the start.
    pub conditions: Conditions,
    /// Hands the pod CIDR to the network.
    pub set_pod_cidr: SetPodCidr,
    /// Told of every call's end.
    pub observe: Observe,
}

/// Of which checkpoints containers are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restore {
    /// Of archives, by their paths on the node.
    pub archives: bool,
    /// Of images that have what an archive has.
    pub images: bool,
}

/// Says how the node is.
pub type Conditions =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Vec<Condition>> + Send>> + Send + Sync>;

/// Hands the node's pod CIDRs to the network; the text says why it could not be done.
pub type SetPodCidr = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// Told of every call: its method, its outcome and how long it took.
pub type Observe = Box<dyn Fn(&'static str, tonic::Code, Duration) + Send + Sync>;

/// One condition of the node.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Condition {
    /// `RuntimeReady`, `NetworkReady` or `HandlersReady`.
    pub name: &'static str,
    /// Does it hold?
    pub holds: bool,
    /// One word why not.
    pub reason: String,
    /// A sentence: what is wrong and what to do.
    pub message: String,
}
