//! Writing limits on v1.

use std::path::Path;

use super::V1;
use crate::error::{Error, Result};
use crate::path::CgroupPath;
use crate::resources::Resources;
use crate::{Controller, files};

pub(super) fn apply(v1: &V1, path: &CgroupPath, resources: &Resources) -> Result<()> {
    if let Some(key) = resources.unified.keys().next() {
        return Err(Error::Unsupported {
            what: format!("the unified resource {key:?}"),
            reason: "this machine uses cgroup v1",
        });
    }
    cpu(v1, path, resources)?;
    for (name, value) in
        [("cpuset.cpus", &resources.cpuset_cpus), ("cpuset.mems", &resources.cpuset_mems)]
    {
        if let Some(value) = value {
            let directory = v1.need(path, Controller::Cpuset, "a cpuset")?;
            files::write(&directory.join(name), value)?;
        }
    }
    memory(v1, path, resources)?;
    if let Some(limit) = resources.pids_limit {
        let directory = v1.need(path, Controller::Pids, "a limit of tasks")?;
        let value = if limit > 0 { limit.to_string() } else { "max".to_owned() };
        files::write(&directory.join("pids.max"), &value)?;
    }
    for hugepage in &resources.hugepages {
        let directory = v1.need(path, Controller::Hugetlb, "a limit of huge pages")?;
        let name = format!("hugetlb.{}.limit_in_bytes", hugepage.page_size);
        files::write(&directory.join(name), &hugepage.limit.to_string())?;
    }
    Ok(())
}

fn cpu(v1: &V1, path: &CgroupPath, resources: &Resources) -> Result<()> {
    if let Some(shares) = resources.cpu_shares.filter(|shares| *shares > 0) {
        let directory = v1.need(path, Controller::Cpu, "a share of processor time")?;
        files::write(&directory.join("cpu.shares"), &shares.to_string())?;
    }
    if resources.cpu_quota.is_none() && resources.cpu_period.is_none() {
        return Ok(());
    }
    let directory = v1.need(path, Controller::Cpu, "a quota of processor time")?;
    let (quota_file, period_file) =
        (directory.join("cpu.cfs_quota_us"), directory.join("cpu.cfs_period_us"));
    let quota = resources.cpu_quota.map(|quota| if quota > 0 { quota } else { -1 });
    let write = |file: &Path, value: Option<String>| {
        value.map_or(Ok(()), |value| files::write(file, &value))
    };
    let (quota, period) =
        (quota.map(|q| q.to_string()), resources.cpu_period.map(|p| p.to_string()));
    // Each is checked against the other's old value, and against the parent's ratio of the two:
    // one of the two orders works if any does.
    if write(&period_file, period.clone()).is_ok() {
        return write(&quota_file, quota);
    }
    write(&quota_file, quota)?;
    write(&period_file, period)
}

/// The limit of memory must never exceed that of memory and swap: the order of the two writes
/// depends on whether they go up or down.
fn memory(v1: &V1, path: &CgroupPath, resources: &Resources) -> Result<()> {
    if resources.memory_limit.is_none() && resources.memory_swap_limit.is_none() {
        return Ok(());
    }
    let directory = v1.need(path, Controller::Memory, "a limit of memory")?;
    let (file, swap_file) =
        (directory.join("memory.limit_in_bytes"), directory.join("memory.memsw.limit_in_bytes"));
    let text = |limit: i64| if limit < 0 { "-1".to_owned() } else { limit.to_string() };
    // Without swap accounting the file is missing, and with it the limit.
    let swap = resources.memory_swap_limit.filter(|_| swap_file.exists());
    let raises = match swap {
        Some(limit) if limit >= 0 => {
            let now = files::limit_if_there(&swap_file)?;
            now.is_some_and(|now| limit.unsigned_abs() > now)
        }
        Some(_) => true,
        None => false,
    };
    if let Some(limit) = swap.filter(|_| raises) {
        files::write(&swap_file, &text(limit))?;
    }
    if let Some(limit) = resources.memory_limit {
        files::write(&file, &text(limit))?;
    }
    if let Some(limit) = swap.filter(|_| !raises) {
        files::write(&swap_file, &text(limit))?;
    }
    Ok(())
}
