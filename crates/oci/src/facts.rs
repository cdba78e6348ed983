//! What a spec is made from besides the request: facts that somebody else has found out.

use std::path::PathBuf;

use berth_pod::spec::{ContainerSpec, ImageFacts, ResolvedUser, SandboxSpec};
use berth_pod::{ContainerId, SandboxId};
use serde::{Deserialize, Serialize};

use crate::capability::CapabilitySet;
use crate::spec::{DeviceKind, Rlimit, Seccomp};

/// Generation of control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupVersion {
    /// One hierarchy for each controller (also when a unified one stands beside them).
    V1,
    /// The unified hierarchy.
    V2,
}

/// Who makes control groups, and so how they are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupDriver {
    /// The OCI runtime, in the file system.
    Cgroupfs,
    /// systemd.
    Systemd,
}

/// Instruction sets, as far as seccomp profiles differ between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// 32-bit x86.
    X86,
    /// x86-64.
    Amd64,
    /// 32-bit ARM.
    Arm,
    /// AArch64.
    Arm64,
    /// 64-bit little-endian POWER.
    Ppc64le,
    /// 64-bit RISC-V.
    Riscv64,
    /// 64-bit z/Architecture.
    S390x,
    /// 64-bit LoongArch.
    Loongarch64,
}

impl Arch {
    /// The one that this program runs on, when it is one of these.
    pub fn native() -> Option<Self> {
        Some(match std::env::consts::ARCH {
            "x86" => Self::X86,
            "x86_64" => Self::Amd64,
            "arm" => Self::Arm,
            "aarch64" => Self::Arm64,
            "powerpc64" => Self::Ppc64le,
            "riscv64" => Self::Riscv64,
            "s390x" => Self::S390x,
            "loongarch64" => Self::Loongarch64,
            _ => return None,
        })
    }
}

/// AppArmor on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppArmor {
    /// The kernel does not enforce it.
    Off,
    /// It does.
    On {
        /// The loaded profile that stands for "the runtime's default", when there is one.
        default_profile: Option<String>,
    },
}

/// Facts about the node and the daemon, found once.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    /// The daemon's own bounding set: "all capabilities" means these.
    pub capabilities: CapabilitySet,
    /// Generation of control groups.
    pub cgroup_version: CgroupVersion,
    /// Their driver.
    pub cgroup_driver: CgroupDriver,
    /// Can memory and swap be limited together.
    pub swap_limit: bool,
    /// Is the controller of huge pages there for containers.
    pub hugetlb: bool,
    /// Limit of processes and threads for containers that name none.
    pub pids_limit: Option<i64>,
    /// Instruction set.
    pub arch: Arch,
    /// Version of the kernel, major and minor.
    pub kernel: (u32, u32),
    /// Does the kernel know `mount_setattr` with `AT_RECURSIVE` (5.12).
    pub recursive_read_only: bool,
    /// Does the kernel filter system calls.
    pub seccomp: bool,
    /// AppArmor.
    pub apparmor: AppArmor,
    /// Is SELinux enabled.
    pub selinux: bool,
    /// Device nodes of the host, for privileged containers.
    pub devices: Vec<DeviceNode>,
    /// The lowest `oom_score_adj` that may be given; see [`oom_floor`].
    pub oom_floor: Option<i32>,
    /// Resource limits for every container; none inherits the daemon's.
    pub rlimits: Vec<Rlimit>,
}

/// The lowest `oom_score_adj` that a container may be given: the daemon's own when the
/// configuration restricts it, and when the kernel would refuse less anyway.
pub fn oom_floor(restrict: bool, own: i32, may_lower: bool) -> Option<i32> {
    (restrict || !may_lower).then_some(own)
}

/// Facts about the runtime handler of the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandlerFacts {
    /// Does its runtime know the mount option `rro`.
    pub recursive_read_only: bool,
    /// Does its runtime id-map mounts.
    pub id_mapped_mounts: bool,
    /// Privileged containers get no devices of the host.
    pub privileged_without_host_devices: bool,
    /// Pod annotations that are passed on: names, in which `*` and `?` stand for any text and any
    /// one character.
    pub pod_annotations: Vec<String>,
    /// Container annotations that are passed on, likewise.
    pub container_annotations: Vec<String>,
    /// Its runtime says that it writes checkpoints and restores them.
    #[serde(default)]
    pub checkpoint: bool,
    /// Its pods run on kernels of their own, with this network; none: on the node's kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_network: Option<GuestNetwork>,
    /// What its runtime says that it can do besides.
    #[serde(default, skip_serializing_if = "Extras::none")]
    pub extras: Extras,
}

/// What only some OCI runtimes can do. Others pass over it in silence: it is asked of none that does
/// not say that it can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Extras {
    /// Scheduling and I/O priority of the first process.
    pub scheduling: bool,
    /// Classes of cache and memory bandwidth.
    pub rdt: bool,
    /// Network devices that move into the container.
    pub net_devices: bool,
    /// Memory policies.
    pub memory_policy: bool,
}

impl Extras {
    /// None of it.
    pub fn none(&self) -> bool {
        *self == Self::default()
    }
}

/// Whose network stack a pod with a kernel of its own uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuestNetwork {
    /// Its own kernel's: the addresses leave the device of its network namespace.
    Own,
    /// The node's kernel's, in its network namespace.
    Node,
}

/// A device node of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceNode {
    /// Its path on the host.
    pub path: PathBuf,
    /// Character, block or fifo.
    pub kind: DeviceKind,
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Propagation of the mount that a path lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourcePropagation {
    /// Neither way.
    Private,
    /// Receives.
    Slave,
    /// Sends and receives.
    Shared,
}

/// What was found about the source of a mount; one for each entry of `ContainerSpec::mounts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedMount {
    /// What to mount: the host path as it was asked for (gVisor and Kata read meaning from it),
    /// or where an image or an id-mapped stage was mounted.
    pub source: PathBuf,
    /// Propagation of the mount that it lies on.
    pub propagation: SourcePropagation,
    /// The source is id-mapped already: the runtime is not to do it again.
    pub id_mapped: bool,
    /// It is no directory, so nothing can be mounted below it.
    pub alone: bool,
}

/// Namespaces of a pod that have a path; one that is none is the node's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespacePaths {
    /// User namespace.
    pub user: Option<PathBuf>,
    /// Network namespace.
    pub net: Option<PathBuf>,
    /// IPC namespace.
    pub ipc: Option<PathBuf>,
    /// UTS namespace.
    pub uts: Option<PathBuf>,
    /// The pod's shared PID namespace.
    pub pid: Option<PathBuf>,
}

/// Files of a pod that its containers see unless their own mounts have them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFiles {
    /// `/etc/resolv.conf`.
    pub resolv_conf: Option<PathBuf>,
    /// `/etc/hostname`.
    pub hostname: Option<PathBuf>,
    /// `/etc/hosts`.
    pub hosts: Option<PathBuf>,
    /// `/dev/shm`: the pod's, or the node's with host IPC.
    pub shm: Option<PathBuf>,
}

/// A pod, as its specs need it.
#[derive(Clone, Copy, Debug)]
pub struct PodInput<'a> {
    /// The sandbox's id.
    pub id: &'a SandboxId,
    /// What was asked for.
    pub spec: &'a SandboxSpec,
    /// Its host name; with host network, the node's.
    pub hostname: &'a str,
    /// Its namespaces.
    pub namespaces: &'a NamespacePaths,
    /// Its files.
    pub files: &'a PodFiles,
    /// Its control group, absolute (systemd: ending in a slice).
    pub cgroup: &'a str,
    /// Its handler.
    pub handler: &'a HandlerFacts,
    /// The node.
    pub node: &'a NodeFacts,
}

/// A container, as its spec needs it.
#[derive(Clone, Copy, Debug)]
pub struct ContainerInput<'a> {
    /// Its id.
    pub id: &'a ContainerId,
    /// Its pod.
    pub pod: PodInput<'a>,
    /// What was asked for.
    pub spec: &'a ContainerSpec,
    /// Facts of its image.
    pub image: &'a ImageFacts,
    /// The ids that it runs with.
    pub user: &'a ResolvedUser,
    /// Where its root file system is mounted: absolute, or from the bundle on.
    pub rootfs: &'a std::path::Path,
    /// One for each of `spec.mounts`.
    pub mounts: &'a [CheckedMount],
    /// Directories for the volumes that the image declares: path in the container, source.
    pub image_volumes: &'a [(PathBuf, PathBuf)],
    /// The nodes found for each of `spec.devices`; several when a directory was asked for.
    pub devices: &'a [Vec<DeviceNode>],
    /// The parsed profile, when a localhost one was asked for.
    pub seccomp: Option<&'a Seccomp>,
    /// The target's PID namespace, when that was asked for.
    pub target_pid: Option<&'a std::path::Path>,
}
