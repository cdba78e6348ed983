//! Which cgroup file systems this machine has.

use std::path::PathBuf;
use std::sync::Arc;

use berth_sys::mountinfo::{Mount, Table};

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

/// v1 if any controller lives there: a v2 hierarchy beside it ("hybrid") then has leftovers only.
pub(crate) fn detect() -> Result<Cgroups> {
    from_table(&Table::own()?)
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
