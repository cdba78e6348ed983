//! What was asked for, parsed once: the admitted configuration of a sandbox and of a container.
//!
//! These types hold what Berth acts on. A sandbox's message stays beside them, as opaque bytes, for
//! the shim's CreateSandbox, which needs it whole.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use crate::checkpoint::Checkpoint;

/// A parsed request: what to act on, its digest, and the original message.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Admitted<T> {
    /// What Berth acts on.
    pub spec: T,
    /// Hex SHA-256 of the canonical configuration: two requests are the same if these are equal.
    pub digest: String,
    /// The protobuf encoding of the original configuration message; empty where nobody needs it.
    #[serde(with = "bytes_as_base64", default, skip_serializing_if = "Vec::is_empty")]
    pub original: Vec<u8>,
}

impl<T> fmt::Debug for Admitted<T> {
    /// Its digest alone: the whole would drown a log line, and may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Admitted({})", self.digest)
    }
}

/// The four parts of a sandbox's name (CRI `PodSandboxMetadata`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodName {
    /// Pod name.
    pub name: String,
    /// Pod namespace (the Kubernetes one).
    pub namespace: String,
    /// Pod uid.
    pub uid: String,
    /// Attempt of creating this sandbox.
    pub attempt: u32,
}

/// The parts of a container's name within its pod (CRI `ContainerMetadata`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContainerName {
    /// Container name.
    pub name: String,
    /// Attempt of creating this container.
    pub attempt: u32,
}

/// Labels, annotations, sysctls and other string maps, in a stable order.
pub type StringMap = BTreeMap<String, String>;

/// A sandbox as admitted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Its name.
    pub name: PodName,
    /// The runtime handler as asked for; "" is the default handler.
    pub handler: String,
    /// The host name to set; "" takes none (host network: the node's own).
    pub hostname: String,
    /// Directory under which containers' log paths lie; none discards logs.
    pub log_directory: Option<PathBuf>,
    /// DNS settings; none copies the node's resolv.conf.
    pub dns: Option<Dns>,
    /// Host ports asked for; entries with host port 0 are kept out.
    pub port_mappings: Vec<PortMapping>,
    /// Labels.
    pub labels: StringMap,
    /// Annotations.
    pub annotations: StringMap,
    /// The pod's cgroup as the kubelet names it; none: Berth makes one of its own.
    pub cgroup_parent: Option<String>,
    /// Namespaces that the pod's containers share.
    pub namespaces: PodNamespaces,
    /// Kernel parameters to set in the pod's namespaces.
    pub sysctls: StringMap,
    /// May containers of this pod be privileged.
    pub privileged: bool,
    /// SELinux label parts, when given.
    pub selinux: Option<Selinux>,
    /// Resources of the runtime itself (RuntimeClass overhead).
    pub overhead: Option<Resources>,
    /// The sum of the containers' resources, known before they exist.
    pub resources: Option<Resources>,
}

/// DNS settings of a pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Dns {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The `search` line.
    pub searches: Vec<String>,
    /// The `options` line.
    pub options: Vec<String>,
}

/// Transport protocol of a port mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A host port that leads to a container port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PortMapping {
    /// Protocol.
    pub protocol: Protocol,
    /// Port in the pod.
    pub container_port: u16,
    /// Port on the node; never 0.
    pub host_port: u16,
    /// Address on the node; "" is every address.
    pub host_ip: String,
}

/// Whether a namespace belongs to the pod or is the node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodOrNode {
    /// One for the pod.
    Pod,
    /// The node's own.
    Node,
}

/// Which processes a container sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidMode {
    /// One PID namespace for the whole pod.
    Pod,
    /// One for each container.
    Container,
    /// The node's own.
    Node,
    /// That of the container with this id, in the same pod.
    Target(String),
}

/// Namespace choices of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodNamespaces {
    /// Network.
    pub network: PodOrNode,
    /// PID; the pod's own choice is `Pod`, `Container` or `Node`.
    pub pid: PidMode,
    /// IPC.
    pub ipc: PodOrNode,
    /// A user namespace with these mappings; none is the node's.
    pub user: Option<UserNamespace>,
}

/// The mappings of a user namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// User ids.
    pub uids: Vec<IdMapping>,
    /// Group ids.
    pub gids: Vec<IdMapping>,
}

/// One range of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapping {
    /// First id outside.
    pub host_id: u32,
    /// First id inside.
    pub container_id: u32,
    /// How many.
    pub length: u32,
}

/// SELinux label parts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selinux {
    /// User.
    pub user: String,
    /// Role.
    pub role: String,
    /// Type.
    pub kind: String,
    /// Level.
    pub level: String,
}

/// Limits of a container or pod. 0 or none means "not set", as CRI has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// CFS period, µs.
    pub cpu_period: i64,
    /// CFS quota, µs; negative is unlimited.
    pub cpu_quota: i64,
    /// CPU shares (cgroup v1 scale, 2..=262144).
    pub cpu_shares: i64,
    /// Memory limit, bytes.
    pub memory_limit: i64,
    /// Memory plus swap limit, bytes; -1 is unlimited.
    pub memory_swap_limit: i64,
    /// OOM score adjustment, -1000..=1000.
    pub oom_score_adj: i64,
    /// CPUs, list format.
    pub cpuset_cpus: String,
    /// Memory nodes, list format.
    pub cpuset_mems: String,
    /// Limits of huge pages by page size ("2MB"), bytes.
    pub hugepages: BTreeMap<String, u64>,
    /// cgroup v2 files to write as they stand.
    pub unified: StringMap,
}

impl Resources {
    /// These laid over what was set before: what these leave out stays as it was.
    #[must_use]
    pub fn over(self, before: &Self) -> Self {
        let number = |new: i64, before: i64| if new == 0 { before } else { new };
        let text = |new: String, before: &String| if new.is_empty() { before.clone() } else { new };
        let mut hugepages = before.hugepages.clone();
        hugepages.extend(self.hugepages);
        let mut unified = before.unified.clone();
        unified.extend(self.unified);
        Self {
            cpu_period: number(self.cpu_period, before.cpu_period),
            cpu_quota: number(self.cpu_quota, before.cpu_quota),
            cpu_shares: number(self.cpu_shares, before.cpu_shares),
            memory_limit: number(self.memory_limit, before.memory_limit),
            memory_swap_limit: number(self.memory_swap_limit, before.memory_swap_limit),
            oom_score_adj: number(self.oom_score_adj, before.oom_score_adj),
            cpuset_cpus: text(self.cpuset_cpus, &before.cpuset_cpus),
            cpuset_mems: text(self.cpuset_mems, &before.cpuset_mems),
            hugepages,
            unified,
        }
    }
}

/// An image as asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageAsked {
    /// Name, digest or id that the request carries.
    pub reference: String,
    /// What the user wrote in the pod.
    pub user_specified: String,
    /// Annotations.
    pub annotations: StringMap,
    /// The handler that the image is for; "" is the default.
    pub runtime_handler: String,
}

/// What happens to a container's standard input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdin {
    /// /dev/null.
    Closed,
    /// Stays open for any number of attachers.
    Open,
    /// Closed when the first attacher goes.
    Once,
}

/// A container as admitted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Its name in the pod.
    pub name: ContainerName,
    /// The image.
    pub image: ImageAsked,
    /// Replaces the image's entry point when not empty.
    pub command: Vec<String>,
    /// Replaces the image's arguments when not empty, or when `command` is given.
    pub args: Vec<String>,
    /// Replaces the image's working directory when not empty.
    pub working_dir: String,
    /// Variables added to the image's, in order; a later one wins.
    pub envs: Vec<(String, String)>,
    /// Mounts, in the order given.
    pub mounts: Vec<Mount>,
    /// Device nodes of the host.
    pub devices: Vec<Device>,
    /// Fully qualified CDI device names.
    pub cdi_devices: Vec<String>,
    /// Labels.
    pub labels: StringMap,
    /// Annotations.
    pub annotations: StringMap,
    /// Absolute path of the log; none discards it.
    pub log_path: Option<PathBuf>,
    /// Standard input.
    pub stdin: Stdin,
    /// A terminal.
    pub tty: bool,
    /// Signal number that asks the container to stop, when given.
    pub stop_signal: Option<i32>,
    /// Limits.
    pub resources: Resources,
    /// Users, privileges and confinement.
    pub security: Security,
    /// The checkpoint that it is made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Checkpoint>,
}

/// How mounts made later on one side show on the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Neither way.
    Private,
    /// From the host into the container (`rslave`).
    HostToContainer,
    /// Both ways (`rshared`).
    Bidirectional,
}

/// What a mount shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A path of the host.
    Host(PathBuf),
    /// An image (KEP-4639), and a path within it; "" is its root.
    Image {
        /// Which image.
        image: ImageAsked,
        /// The path within.
        sub_path: String,
    },
}

/// A mount of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path in the container.
    pub container_path: PathBuf,
    /// What is shown there.
    pub source: MountSource,
    /// Not writable.
    pub readonly: bool,
    /// Not writable, including mounts below (kernel 5.12).
    pub recursive_read_only: bool,
    /// Relabel for SELinux.
    pub selinux_relabel: bool,
    /// Propagation.
    pub propagation: Propagation,
    /// Id mappings, when the mount is to be id-mapped.
    pub uid_mappings: Vec<IdMapping>,
    /// Group mappings.
    pub gid_mappings: Vec<IdMapping>,
}

/// A host device given to a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Path in the container.
    pub container_path: PathBuf,
    /// Path on the host.
    pub host_path: PathBuf,
    /// Some of `r`, `w`, `m`.
    pub permissions: String,
}

/// Who the container runs as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunAs {
    /// The image's user.
    Image,
    /// A user id, with a group id when given.
    Ids {
        /// User id.
        uid: u32,
        /// Group id.
        gid: Option<u32>,
    },
    /// A user name or id to look up in the image's passwd, with a group id when given.
    Name {
        /// The name.
        user: String,
        /// Group id.
        gid: Option<u32>,
    },
}

/// How supplemental groups come together (KEP-3619).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupsPolicy {
    /// The image's groups of that user and the given ones.
    Merge,
    /// The given ones only.
    Strict,
}

/// A seccomp or AppArmor profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Profile {
    /// Nothing was said: unconfined for seccomp, the runtime's default for AppArmor.
    Unset,
    /// The runtime's own default.
    RuntimeDefault,
    /// None.
    Unconfined,
    /// A file (seccomp: an absolute path) or a loaded profile (AppArmor: its name).
    Localhost(String),
}

/// Users, privileges and confinement of a container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Security {
    /// All capabilities of the daemon, all devices, nothing masked.
    pub privileged: bool,
    /// Capabilities to add, with or without `CAP_`; `ALL` is every one.
    pub add_capabilities: Vec<String>,
    /// Capabilities to drop.
    pub drop_capabilities: Vec<String>,
    /// Capabilities to add to the ambient (and inheritable) set.
    pub add_ambient_capabilities: Vec<String>,
    /// PID namespace.
    pub pid: PidMode,
    /// User and group.
    pub run_as: RunAs,
    /// Supplemental groups.
    pub supplemental_groups: Vec<u32>,
    /// How they come together with the image's.
    pub groups_policy: GroupsPolicy,
    /// Rootfs mounted read-only.
    pub readonly_rootfs: bool,
    /// `no_new_privs`.
    pub no_new_privs: bool,
    /// Paths to hide; replaces the default list.
    pub masked_paths: Vec<String>,
    /// Paths to make read-only; replaces the default list.
    pub readonly_paths: Vec<String>,
    /// seccomp.
    pub seccomp: Profile,
    /// AppArmor.
    pub apparmor: Profile,
    /// SELinux label parts, when given.
    pub selinux: Option<Selinux>,
}

/// What a container takes from its image: the facts of its OCI image configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFacts {
    /// The image's id: the digest of its configuration, `sha256:…`.
    pub id: String,
    /// A repo digest `name@sha256:…` that the image was pulled by, or its id.
    pub image_ref: String,
    /// Entry point.
    pub entrypoint: Vec<String>,
    /// Default arguments.
    pub cmd: Vec<String>,
    /// Variables, `NAME=value`.
    pub env: Vec<String>,
    /// Working directory.
    pub working_dir: String,
    /// User, as written: `user`, `uid`, `user:group`, `uid:gid`, …
    pub user: String,
    /// Stop signal, as written.
    pub stop_signal: String,
    /// Paths declared as volumes.
    pub volumes: Vec<String>,
}

/// The ids that a container's first process runs with, after look-ups in the image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplemental groups, in ascending order.
    pub groups: Vec<u32>,
    /// Home directory, when passwd has one.
    pub home: Option<String>,
}

mod bytes_as_base64 {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        STANDARD.decode(text).map_err(serde::de::Error::custom)
    }
}
