//! Which cgroup file systems this machine has.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_sys::mountinfo::{Mount, Table};
use berth_sys::mounts::is_mounted;
use rustix::fs::FsWord;

use crate::error::{Error, Result};
use crate::{Cgroups, Controller, v1, v2};

impl Controller {
    /// The controller of this name in mount options and /proc/cgroups (v1).
    pub(crate) fn from_v1(name: &str) -> Option<Self> {
        Some(match name {
            "cpu" => Self::Cpu,
            "cpuacct" => Self::Cpuacct,
            "cpuset" => Self::Cpuset,
            "memory" => Self::Memory,
            "pids" => Self::Pids,
            "blkio" => Self::Io,
            "hugetlb" => Self::Hugetlb,
            "devices" => Self::Devices,
            "freezer" => Self::Freezer,
            "net_cls" => Self::NetCls,
            "net_prio" => Self::NetPrio,
            "perf_event" => Self::PerfEvent,
            "rdma" => Self::Rdma,
            "misc" => Self::Misc,
            "name=systemd" => Self::Systemd,
            _ => return None,
        })
    }

    /// The controller of this name in cgroup.controllers (v2).
    pub(crate) fn from_v2(name: &str) -> Option<Self> {
        Some(match name {
            "cpu" => Self::Cpu,
            "cpuset" => Self::Cpuset,
            "memory" => Self::Memory,
            "pids" => Self::Pids,
            "io" => Self::Io,
            "hugetlb" => Self::Hugetlb,
            "rdma" => Self::Rdma,
            "misc" => Self::Misc,
            _ => return None,
        })
    }
}

/// Where cgroup file systems are mounted by everybody who has no reason not to.
const USUAL: &str = "/sys/fs/cgroup";
/// CGROUP_SUPER_MAGIC and CGROUP2_SUPER_MAGIC of linux/magic.h.
const V1_MAGIC: FsWord = 0x0027_e0eb;
const V2_MAGIC: FsWord = 0x6367_7270;

/// v1 if any controller lives there: a v2 hierarchy beside it ("hybrid") then has leftovers only.
pub(crate) fn detect() -> Result<Cgroups> {
    match usual() {
        Some(cgroups) => Ok(cgroups),
        None => from_table(&Table::own()?),
    }
}

/// What is at the usual places, if all hierarchies are. Each shim looks at its start, and the table of
/// mounts, which says it for any place, grows with the node.
fn usual() -> Option<Cgroups> {
    let of_kind = |directory: &Path, magic| {
        let kind = rustix::fs::statfs(directory).map(|stat| stat.f_type);
        kind == Ok(magic) && is_mounted(directory).unwrap_or(false)
    };
    let root = Path::new(USUAL);
    if of_kind(root, V2_MAGIC) {
        return Some(Cgroups { layout: Arc::new(v2::V2::new(root.to_owned())) });
    }
    let mut hierarchies = Vec::new();
    // Lines such as `4:cpu,cpuacct:/path` and `1:name=systemd:/path` (cgroups(7)).
    for line in std::fs::read_to_string("/proc/self/cgroup").ok()?.lines() {
        let names = line.split(':').nth(1)?;
        let found: Vec<_> = names.split(',').filter_map(Controller::from_v1).collect();
        if found.is_empty() {
            continue;
        }
        let directory = root.join(names.strip_prefix("name=").unwrap_or(names));
        if !of_kind(&directory, V1_MAGIC) {
            return None;
        }
        hierarchies.push((directory, found));
    }
    let any = hierarchies.iter().any(|(_, have)| have.iter().any(|c| *c != Controller::Systemd));
    any.then(|| Cgroups { layout: Arc::new(v1::V1::new(hierarchies)) })
}

fn from_table(table: &Table) -> Result<Cgroups> {
    // The kind first: whether a mount is covered costs a look at all others.
    let of = |kind: &'static str| table.mounts().iter().filter(move |m| m.kind == kind);
    let seen = |mount: &&Mount| table.containing(&mount.point).is_some_and(|m| m.id == mount.id);
    let mut hierarchies: Vec<(PathBuf, Vec<Controller>)> = Vec::new();
    for mount in of("cgroup").filter(seen) {
        let found: Vec<_> =
            mount.super_options.split(',').filter_map(Controller::from_v1).collect();
        // A hierarchy may be mounted at several places: the first is as good as any.
        let known = hierarchies.iter().any(|(_, have)| *have == found);
        if !found.is_empty() && !known {
            hierarchies.push((mount.point.clone(), found));
        }
    }
    if hierarchies.iter().any(|(_, have)| have.iter().any(|c| *c != Controller::Systemd)) {
        return Ok(Cgroups { layout: Arc::new(v1::V1::new(hierarchies)) });
    }
    let unified = of("cgroup2").find(seen);
    let root = unified.ok_or(Error::NoHierarchy)?.point.clone();
    Ok(Cgroups { layout: Arc::new(v2::V2::new(root)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Version;

    #[test]
    fn the_usual_places_are_what_the_table_says() {
        let Some(found) = usual() else { return }; // this machine has them elsewhere
        let table = from_table(&Table::own().unwrap()).unwrap();
        assert_eq!(found.version(), table.version());
        let (mut here, mut there) = (found.controllers(), table.controllers());
        here.sort();
        there.sort();
        assert_eq!(here, there);
        let memory = |cgroups: &Cgroups| {
            cgroups.at("/no-such-cgroup").unwrap().directory(Controller::Memory)
        };
        assert_eq!(memory(&found), memory(&table));
    }

    #[test]
    fn separate_joined_and_named_hierarchies_are_v1() {
        let table = Table::parse(
            b"1 0 0:1 / / rw - ext4 x rw\n\
              2 1 0:2 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
              3 2 0:3 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
              4 2 0:4 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
              5 2 0:5 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
              6 2 0:6 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
              7 1 0:4 / /elsewhere rw - cgroup cgroup rw,memory\n",
        );
        let cgroups = from_table(&table.unwrap()).unwrap();
        assert_eq!(cgroups.version(), Version::V1);
        use Controller::{Cpu, Cpuacct, Memory, Systemd};
        assert_eq!(cgroups.controllers(), [Cpu, Cpuacct, Memory, Systemd]);
    }

    #[test]
    fn a_lone_unified_hierarchy_is_v2() {
        let table = Table::parse(
            b"1 0 0:1 / / rw - ext4 x rw\n2 1 0:2 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        );
        assert_eq!(from_table(&table.unwrap()).unwrap().version(), Version::V2);
    }

    #[test]
    fn a_covered_mount_is_not_used() {
        let table = Table::parse(
            b"1 0 0:1 / / rw - ext4 x rw\n\
              2 1 0:2 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
              3 1 0:3 / /sys/fs/cgroup/memory rw - tmpfs tmpfs rw\n",
        );
        assert!(matches!(from_table(&table.unwrap()), Err(Error::NoHierarchy)));
    }
}
