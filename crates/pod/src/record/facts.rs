//! What each holding is known by once it is held.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::spec::{ImageFacts, ResolvedUser, Resources};

/// The pod's cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupFact {
    /// Its path relative to each hierarchy's root.
    pub path: String,
    /// Made by us: then we remove it.
    pub ours: bool,
    /// It is a slice of systemd's, and its containers are scopes.
    #[serde(default)]
    pub systemd: bool,
}

/// Where the pod's namespaces are pinned; none is the node's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespacesFact {
    /// User.
    pub user: Option<PathBuf>,
    /// Network.
    pub net: Option<PathBuf>,
    /// IPC.
    pub ipc: Option<PathBuf>,
    /// UTS.
    pub uts: Option<PathBuf>,
}

/// Files that the pod's containers share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesFact {
    /// resolv.conf.
    pub resolv_conf: PathBuf,
    /// hostname.
    pub hostname: PathBuf,
    /// hosts.
    pub hosts: PathBuf,
    /// /dev/shm.
    pub shm: PathBuf,
}

/// The pod's attachment to the network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkFact {
    /// Its addresses, the pod's own first.
    pub ips: Vec<IpAddr>,
}

/// The pod's shim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimFact {
    /// Its socket, as its `start` answered it.
    pub address: String,
    /// Generation of its Task API.
    pub version: u32,
    /// Its binary, for `delete`, even when the handler is gone from the configuration.
    pub binary: PathBuf,
    /// Its process id, when known.
    pub pid: Option<u32>,
    /// Start time of that process (field 22 of /proc/PID/stat), against reuse of the id.
    pub pid_start: Option<u64>,
    /// It is not Berth's own: the daemon carries its containers' output.
    #[serde(default)]
    pub foreign: bool,
}

/// The sandbox in the shim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxFact {
    /// Its process, where it has one.
    pub pid: Option<u32>,
    /// The pinned PID namespace, where the pod shares one.
    pub pid_ns: Option<PathBuf>,
    /// The sandbox is a task of the shim, which has no Sandbox API.
    #[serde(default)]
    pub as_task: bool,
}

/// The task of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskFact {
    /// Its first process.
    pub pid: u32,
    /// When it was started, ns since the epoch.
    pub started_at: i64,
}

/// What the image reference gave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageHeld {
    /// The image's configuration.
    pub facts: ImageFacts,
    /// The ids that the container runs with.
    pub user: ResolvedUser,
    /// The images of its image volumes, in the order of those.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeHeld>,
}

/// The image of an image volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeHeld {
    /// The image's id.
    pub id: String,
}

/// A prepared root filesystem: a mount for the shim to make.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootfsFact {
    /// Filesystem type.
    pub kind: String,
    /// Source.
    pub source: String,
    /// Options.
    pub options: Vec<String>,
}

/// Facts of a pod's holding, as its acquisition found them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodFact {
    /// The cgroup.
    Cgroup(CgroupFact),
    /// The namespaces.
    Namespaces(NamespacesFact),
    /// The files.
    Files(FilesFact),
    /// The network.
    Network(NetworkFact),
    /// The shim.
    Shim(ShimFact),
    /// The sandbox.
    Sandbox(SandboxFact),
}

/// Facts of a container's holding, as its acquisition found them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerFact {
    /// The image.
    Image(Arc<ImageHeld>),
    /// The snapshot.
    Rootfs(RootfsFact),
    /// The bundle, and the limits that it was made with if they are not those that were asked for.
    Bundle(Option<Box<Resources>>),
    /// The cgroup's path.
    Cgroup(String),
    /// The task.
    Task(TaskFact),
}
