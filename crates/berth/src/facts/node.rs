//! Facts of the node.

use std::path::Path;

use anyhow::{Context as _, anyhow};
use berth_cgroup::{Cgroups, Controller, Version};
use berth_oci::CapabilitySet;
use berth_oci::facts::{AppArmor, Arch, CgroupDriver, CgroupVersion, NodeFacts, oom_floor};

use super::device;
use crate::config::{Config, Driver};

/// CAP_SYS_RESOURCE: who has it may lower oom_score_adj.
const SYS_RESOURCE: u64 = 1 << 24;

/// The first kernel whose `mount_setattr` works on a whole tree.
const RECURSIVE_MOUNT_SETATTR: (u32, u32) = (5, 12);

/// Finds out about the node.
pub(crate) fn node(config: &Config, cgroups: &Cgroups) -> anyhow::Result<NodeFacts> {
    let status = std::fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim).ok_or_else(|| anyhow!("/proc/self/status has no {name}"))
    };
    let bits = |name: &str| -> anyhow::Result<u64> {
        u64::from_str_radix(field(name)?, 16).with_context(|| format!("/proc/self/status: {name}"))
    };
    let kernel = kernel()?;
    let own_score = i32::from(berth_sys::thread::oom_score_adj()?);
    let may_lower = bits("CapEff")? & SYS_RESOURCE != 0;
    let controllers = cgroups.controllers();
    Ok(NodeFacts {
        capabilities: CapabilitySet::from_bits(bits("CapBnd")?),
        cgroup_version: match cgroups.version() {
            Version::V1 => CgroupVersion::V1,
            Version::V2 => CgroupVersion::V2,
        },
        cgroup_driver: driver(config, cgroups)?,
        swap_limit: swap_limit(cgroups),
        hugetlb: controllers.contains(&Controller::Hugetlb),
        pids_limit: i64::try_from(config.pods.pids_limit).ok().filter(|limit| *limit > 0),
        arch: Arch::native().ok_or_else(|| {
            anyhow!("{} is not an architecture that Berth knows", std::env::consts::ARCH)
        })?,
        kernel,
        recursive_read_only: kernel >= RECURSIVE_MOUNT_SETATTR,
        seccomp: field("Seccomp").is_ok(),
        apparmor: apparmor(),
        selinux: Path::new("/sys/fs/selinux/enforce").exists(),
        devices: device::all(),
        oom_floor: oom_floor(config.pods.restrict_oom_score_adj, own_score, may_lower),
        rlimits: Vec::new(),
    })
}

/// On v1 systemd knows only some of the hierarchies that a pod's limits are kept in.
fn driver(config: &Config, cgroups: &Cgroups) -> anyhow::Result<CgroupDriver> {
    match (config.cgroup_driver, cgroups.version()) {
        (Driver::Cgroupfs, _) => Ok(CgroupDriver::Cgroupfs),
        (Driver::Systemd, Version::V2) => Ok(CgroupDriver::Systemd),
        (Driver::Systemd, Version::V1) => Err(anyhow!(
            "cgroups.driver is \"systemd\", and this node has cgroup v1: boot it with cgroup v2 \
             (systemd.unified_cgroup_hierarchy=1), or use \"cgroupfs\""
        )),
    }
}

fn kernel() -> anyhow::Result<(u32, u32)> {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").context("osrelease")?;
    version(&text).ok_or_else(|| anyhow!("the kernel calls itself {:?}", text.trim()))
}

/// Major and minor number at the start of `6.1.0-28-amd64`.
pub(super) fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// On v1 the kernel can be told not to count swap; v2 always has it where there is memory.
fn swap_limit(cgroups: &Cgroups) -> bool {
    match cgroups.version() {
        Version::V1 => Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists(),
        Version::V2 => cgroups.controllers().contains(&Controller::Memory),
    }
}

fn apparmor() -> AppArmor {
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    match enabled {
        Ok(text) if text.starts_with('Y') => AppArmor::On { default_profile: default_profile() },
        _ => AppArmor::Off,
    }
}

/// The profile that packages of container runtimes load; Berth loads none itself.
fn default_profile() -> Option<String> {
    let loaded = std::fs::read_to_string("/sys/kernel/security/apparmor/profiles").ok()?;
    let names = || loaded.lines().filter_map(|line| line.split_once(" (")).map(|(name, _)| name);
    let known = ["containers-default", "cri-containerd.apparmor.d", "docker-default"];
    known
        .iter()
        .find_map(|prefix| names().find(|name| name.starts_with(prefix)))
        .map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_its_first_two_numbers() {
        assert_eq!(version("6.1.0-28-amd64\n"), Some((6, 1)));
        assert_eq!(version("5.15.167.4-microsoft"), Some((5, 15)));
        assert_eq!(version("6.18+"), Some((6, 18)));
        assert_eq!(version("linux"), None);
    }
}
