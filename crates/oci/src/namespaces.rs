//! Namespaces: the pod's by path, a container's own ones new.

use std::path::{Path, PathBuf};

use berth_pod::spec::{IdMapping, PidMode, PodOrNode};

use crate::error::Error;
use crate::facts::{CgroupVersion, ContainerInput, PodInput};
use crate::spec::{Linux, LinuxIdMapping, LinuxNamespace, NamespaceKind};

/// Mappings as the spec has them.
pub(crate) fn id_mappings(given: &[IdMapping]) -> Vec<LinuxIdMapping> {
    let one = |m: &IdMapping| LinuxIdMapping {
        container_id: m.container_id,
        host_id: m.host_id,
        size: m.length,
    };
    given.iter().map(one).collect()
}

fn join(kind: NamespaceKind, path: &Path) -> LinuxNamespace {
    LinuxNamespace { kind, path: Some(path.to_owned()) }
}

pub(crate) fn fresh(kind: NamespaceKind) -> LinuxNamespace {
    LinuxNamespace { kind, path: None }
}

/// What every container of the pod shares, and the id mappings: runc 1.1.5 and crun 1.8.1 need
/// them beside the path, to know which ids they may use.
pub(crate) fn shared(pod: &PodInput<'_>, linux: &mut Linux) -> Result<(), Error> {
    let (asked, paths) = (&pod.spec.namespaces, pod.namespaces);
    if let Some(user) = &asked.user {
        linux.namespaces.push(pinned(NamespaceKind::User, "user", &paths.user)?);
        linux.uid_mappings = id_mappings(&user.uids);
        linux.gid_mappings = id_mappings(&user.gids);
    }
    if asked.network == PodOrNode::Pod {
        // A host name of its own belongs to a network of its own.
        linux.namespaces.push(pinned(NamespaceKind::Network, "network", &paths.net)?);
        linux.namespaces.push(pinned(NamespaceKind::Uts, "UTS", &paths.uts)?);
    }
    if asked.ipc == PodOrNode::Pod {
        linux.namespaces.push(pinned(NamespaceKind::Ipc, "IPC", &paths.ipc)?);
    }
    Ok(())
}

fn pinned(
    kind: NamespaceKind,
    name: &str,
    path: &Option<PathBuf>,
) -> Result<LinuxNamespace, Error> {
    match path {
        Some(path) => Ok(join(kind, path)),
        None => Err(Error::Missing(format!("the pod's {name} namespace has no path"))),
    }
}

/// The container's own: mounts always; processes as asked; control groups only where they are
/// unified (on v1 tools inside expect the node's names), and not for privileged ones.
pub(crate) fn own(input: &ContainerInput<'_>, linux: &mut Linux) -> Result<(), Error> {
    linux.namespaces.push(fresh(NamespaceKind::Mount));
    match &input.spec.security.pid {
        PidMode::Container => linux.namespaces.push(fresh(NamespaceKind::Pid)),
        PidMode::Pod => {
            linux.namespaces.push(pinned(NamespaceKind::Pid, "PID", &input.pod.namespaces.pid)?);
        }
        PidMode::Node => {}
        PidMode::Target(id) => match input.target_pid {
            Some(path) => linux.namespaces.push(join(NamespaceKind::Pid, path)),
            None => {
                let text = format!("the PID namespace of target {id} has no path");
                return Err(Error::Missing(text));
            }
        },
    }
    let v2 = input.pod.node.cgroup_version == CgroupVersion::V2;
    if v2 && !input.spec.security.privileged {
        linux.namespaces.push(fresh(NamespaceKind::Cgroup));
    }
    Ok(())
}
