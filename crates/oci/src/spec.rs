//! The `config.json` of a bundle, as the OCI runtime specification 1.1 defines it for Linux.
//!
//! Types of our own rather than a crate's: the same pod must give the same bytes (so maps are
//! ordered and capability lists are vectors), a default must never grant anything, and a
//! capability that only a newer kernel knows must still be representable. What Berth never
//! writes (other operating systems, RDMA) is left out.

mod resources;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use resources::{DeviceRule, HugepageLimit, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};

fn no<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The root object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// Version of the specification that the bundle follows.
    pub oci_version: String,
    /// The first process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// The root file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<Root>,
    /// The host name to set in the UTS namespace; "" sets none.
    #[serde(skip_serializing_if = "no")]
    pub hostname: String,
    /// Mounts, in the order in which they are made.
    pub mounts: Vec<Mount>,
    /// Programs that the runtime runs at stages of a container's life.
    #[serde(skip_serializing_if = "no")]
    pub hooks: Hooks,
    /// Annotations.
    #[serde(skip_serializing_if = "no")]
    pub annotations: BTreeMap<String, String>,
    /// What concerns Linux.
    pub linux: Linux,
}

/// The root file system.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Root {
    /// Where it is mounted.
    pub path: PathBuf,
    /// Not writable.
    #[serde(skip_serializing_if = "no")]
    pub readonly: bool,
}

/// A process: the container's first, or one that is added by exec.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Process {
    /// Give it a terminal.
    #[serde(skip_serializing_if = "no")]
    pub terminal: bool,
    /// User and groups.
    pub user: User,
    /// The program and its arguments.
    pub args: Vec<String>,
    /// `NAME=value`, complete.
    pub env: Vec<String>,
    /// Working directory, absolute.
    pub cwd: PathBuf,
    /// Capability sets.
    pub capabilities: Capabilities,
    /// Resource limits.
    #[serde(skip_serializing_if = "no")]
    pub rlimits: Vec<Rlimit>,
    /// `PR_SET_NO_NEW_PRIVS`.
    #[serde(skip_serializing_if = "no")]
    pub no_new_privileges: bool,
    /// A loaded AppArmor profile; "" keeps the runtime's own.
    #[serde(skip_serializing_if = "no")]
    pub apparmor_profile: String,
    /// What the OOM killer adds to its score.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
    /// SELinux label of the process.
    #[serde(skip_serializing_if = "no")]
    pub selinux_label: String,
    /// Its turn at the disks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_priority: Option<IoPriority>,
    /// Its turn at the CPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<Scheduler>,
}

/// A process's turn at the disks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IoPriority {
    /// `IOPRIO_CLASS_…`.
    pub class: String,
    /// From 0, the first, to 7.
    pub priority: i32,
}

/// A process's turn at the CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scheduler {
    /// `SCHED_…`.
    pub policy: String,
    /// Of the policies that share.
    #[serde(skip_serializing_if = "no")]
    pub nice: i32,
    /// Of the policies that do not.
    #[serde(skip_serializing_if = "no")]
    pub priority: i32,
    /// `SCHED_FLAG_…`.
    #[serde(skip_serializing_if = "no")]
    pub flags: Vec<String>,
    /// Of `SCHED_DEADLINE`, ns.
    #[serde(skip_serializing_if = "no")]
    pub runtime: u64,
    /// Likewise.
    #[serde(skip_serializing_if = "no")]
    pub deadline: u64,
    /// Likewise.
    #[serde(skip_serializing_if = "no")]
    pub period: u64,
}

/// User and groups of a process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplemental groups.
    #[serde(skip_serializing_if = "no")]
    pub additional_gids: Vec<u32>,
}

/// The five capability sets; each holds names with `CAP_`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// What can ever be gained.
    #[serde(skip_serializing_if = "no")]
    pub bounding: Vec<String>,
    /// What is checked.
    #[serde(skip_serializing_if = "no")]
    pub effective: Vec<String>,
    /// What passes through the exec of a file with inheritable capabilities.
    #[serde(skip_serializing_if = "no")]
    pub inheritable: Vec<String>,
    /// What may become effective.
    #[serde(skip_serializing_if = "no")]
    pub permitted: Vec<String>,
    /// What passes through the exec of an ordinary file by a user other than root.
    #[serde(skip_serializing_if = "no")]
    pub ambient: Vec<String>,
}

/// A resource limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// `RLIMIT_…`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The ceiling.
    pub hard: u64,
    /// The value.
    pub soft: u64,
}

/// A mount.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Mount {
    /// Absolute path in the container.
    pub destination: PathBuf,
    /// File system type, or `bind`.
    #[serde(rename = "type", skip_serializing_if = "no")]
    pub kind: String,
    /// What is mounted.
    #[serde(skip_serializing_if = "no")]
    pub source: PathBuf,
    /// Options, as in fstab.
    #[serde(skip_serializing_if = "no")]
    pub options: Vec<String>,
    /// User mappings of an id-mapped mount (kernel 5.12).
    #[serde(skip_serializing_if = "no")]
    pub uid_mappings: Vec<LinuxIdMapping>,
    /// Its group mappings.
    #[serde(skip_serializing_if = "no")]
    pub gid_mappings: Vec<LinuxIdMapping>,
}

/// Hooks by stage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hooks {
    /// As `createRuntime`, and older.
    #[serde(skip_serializing_if = "no")]
    pub prestart: Vec<Hook>,
    /// After the namespaces are made, before the root is changed, outside them.
    #[serde(skip_serializing_if = "no")]
    pub create_runtime: Vec<Hook>,
    /// At the same time, inside them.
    #[serde(skip_serializing_if = "no")]
    pub create_container: Vec<Hook>,
    /// Before the program is executed.
    #[serde(skip_serializing_if = "no")]
    pub start_container: Vec<Hook>,
    /// After it.
    #[serde(skip_serializing_if = "no")]
    pub poststart: Vec<Hook>,
    /// After deletion.
    #[serde(skip_serializing_if = "no")]
    pub poststop: Vec<Hook>,
}

/// A program that the runtime runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hook {
    /// Absolute path.
    pub path: PathBuf,
    /// Its arguments, the name first.
    #[serde(skip_serializing_if = "no")]
    pub args: Vec<String>,
    /// Its environment.
    #[serde(skip_serializing_if = "no")]
    pub env: Vec<String>,
    /// Seconds after which it is killed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
}

/// What concerns Linux.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Linux {
    /// User mappings of the user namespace, also when it is given by path.
    #[serde(skip_serializing_if = "no")]
    pub uid_mappings: Vec<LinuxIdMapping>,
    /// Its group mappings.
    #[serde(skip_serializing_if = "no")]
    pub gid_mappings: Vec<LinuxIdMapping>,
    /// Kernel parameters of the namespaces.
    #[serde(skip_serializing_if = "no")]
    pub sysctl: BTreeMap<String, String>,
    /// Limits.
    pub resources: LinuxResources,
    /// The control group, in the form that its driver wants.
    #[serde(skip_serializing_if = "no")]
    pub cgroups_path: String,
    /// Namespaces to join or make; one that is missing is the node's.
    pub namespaces: Vec<LinuxNamespace>,
    /// Device nodes to make.
    #[serde(skip_serializing_if = "no")]
    pub devices: Vec<LinuxDevice>,
    /// The seccomp filter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<Seccomp>,
    /// Propagation of the root mount: `rslave`, `rshared`; "" leaves it to the runtime.
    #[serde(skip_serializing_if = "no")]
    pub rootfs_propagation: String,
    /// Paths hidden behind an empty file or directory.
    #[serde(skip_serializing_if = "no")]
    pub masked_paths: Vec<String>,
    /// Paths made read-only.
    #[serde(skip_serializing_if = "no")]
    pub readonly_paths: Vec<String>,
    /// SELinux label of the mounts that the runtime makes.
    #[serde(skip_serializing_if = "no")]
    pub mount_label: String,
    /// A class of cache and memory bandwidth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intel_rdt: Option<IntelRdt>,
    /// Network devices of the node that move into the container, by their names there.
    #[serde(skip_serializing_if = "no")]
    pub net_devices: BTreeMap<String, NetDevice>,
    /// Where the container's memory is taken from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_policy: Option<MemoryPolicy>,
}

/// A class of cache and memory bandwidth (resctrl).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IntelRdt {
    /// The class.
    #[serde(rename = "closID", skip_serializing_if = "no")]
    pub clos_id: String,
    /// Lines of its `schemata`.
    #[serde(skip_serializing_if = "no")]
    pub schemata: Vec<String>,
    /// Count what it uses.
    #[serde(skip_serializing_if = "no")]
    pub enable_monitoring: bool,
}

/// A network device of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetDevice {
    /// Its name in the container; "" keeps that of the node.
    #[serde(skip_serializing_if = "no")]
    pub name: String,
}

/// Where memory is taken from (`set_mempolicy`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryPolicy {
    /// `MPOL_…`.
    pub mode: String,
    /// Memory nodes, list format.
    #[serde(skip_serializing_if = "no")]
    pub nodes: String,
    /// `MPOL_F_…`.
    #[serde(skip_serializing_if = "no")]
    pub flags: Vec<String>,
}

/// One range of an id mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinuxIdMapping {
    /// First id inside.
    #[serde(rename = "containerID")]
    pub container_id: u32,
    /// First id outside.
    #[serde(rename = "hostID")]
    pub host_id: u32,
    /// How many.
    pub size: u32,
}

/// The kinds of namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamespaceKind {
    /// User and group ids.
    User,
    /// Processes.
    Pid,
    /// Network.
    Network,
    /// System V IPC and message queues.
    Ipc,
    /// Host name.
    Uts,
    /// Mounts.
    Mount,
    /// Control groups.
    Cgroup,
}

/// A namespace to join (with a path) or to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinuxNamespace {
    /// Which.
    #[serde(rename = "type")]
    pub kind: NamespaceKind,
    /// The one to join; none makes a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
}

/// The kinds of device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DeviceKind {
    /// Every kind; in rules only.
    #[serde(rename = "a")]
    All,
    /// Block.
    #[serde(rename = "b")]
    Block,
    /// Character.
    #[serde(rename = "c", alias = "u")]
    Char,
    /// Named pipe; in nodes only.
    #[serde(rename = "p")]
    Fifo,
}

/// A device node to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinuxDevice {
    /// Where.
    pub path: PathBuf,
    /// Which kind.
    #[serde(rename = "type")]
    pub kind: DeviceKind,
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// Permission bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_mode: Option<u32>,
    /// Owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

/// A seccomp filter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seccomp {
    /// What happens to a call that no rule names, `SCMP_ACT_…`.
    pub default_action: String,
    /// The errno of that, where the action has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_errno_ret: Option<u32>,
    /// Architectures whose calls are filtered by these rules, `SCMP_ARCH_…`.
    #[serde(default, skip_serializing_if = "no")]
    pub architectures: Vec<String>,
    /// `SECCOMP_FILTER_FLAG_…`.
    #[serde(default, skip_serializing_if = "no")]
    pub flags: Vec<String>,
    /// Socket of a process that decides for `SCMP_ACT_NOTIFY`.
    #[serde(default, skip_serializing_if = "no")]
    pub listener_path: String,
    /// Bytes passed to it.
    #[serde(default, skip_serializing_if = "no")]
    pub listener_metadata: String,
    /// The rules.
    #[serde(default, skip_serializing_if = "no")]
    pub syscalls: Vec<SyscallRule>,
}

/// A rule for some system calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SyscallRule {
    /// Their names.
    pub names: Vec<String>,
    /// What happens, `SCMP_ACT_…`.
    pub action: String,
    /// The errno, where the action has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno_ret: Option<u32>,
    /// Conditions, all of which must hold.
    #[serde(default, skip_serializing_if = "no")]
    pub args: Vec<SyscallArg>,
}

/// A condition on an argument of a system call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SyscallArg {
    /// Which argument, from 0.
    pub index: u32,
    /// What it is compared with; the mask for `SCMP_CMP_MASKED_EQ`.
    pub value: u64,
    /// What the masked argument is compared with.
    #[serde(default, skip_serializing_if = "no")]
    pub value_two: u64,
    /// `SCMP_CMP_…`.
    pub op: String,
}
