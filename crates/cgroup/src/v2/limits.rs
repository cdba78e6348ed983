//! Writing limits on v2.

use std::path::Path;

use crate::convert::weight;
use crate::error::{Error, Result};
use crate::files;
use crate::resources::Resources;

pub(super) fn apply(directory: &Path, resources: &Resources) -> Result<()> {
    let write = |name: &str, value: &str| files::write(&directory.join(name), value);
    if let Some(weight) = resources.cpu_shares.and_then(weight) {
        write("cpu.weight", &weight.to_string())?;
    }
    if resources.cpu_quota.is_some() || resources.cpu_period.is_some() {
        write("cpu.max", &cpu_max(directory, resources)?)?;
    }
    if let Some(cpus) = &resources.cpuset_cpus {
        write("cpuset.cpus", cpus)?;
    }
    if let Some(mems) = &resources.cpuset_mems {
        write("cpuset.mems", mems)?;
    }
    if let Some(limit) = resources.memory_limit {
        write("memory.max", &max_or(limit))?;
    }
    if let Some(both) = resources.memory_swap_limit {
        swap(directory, resources.memory_limit, both)?;
    }
    if let Some(limit) = resources.pids_limit {
        write("pids.max", &if limit > 0 { limit.to_string() } else { "max".to_owned() })?;
    }
    for hugepage in &resources.hugepages {
        let (size, limit) = (&hugepage.page_size, hugepage.limit.to_string());
        write(&format!("hugetlb.{size}.max"), &limit)?;
        files::write_if_there(&directory.join(format!("hugetlb.{size}.rsvd.max")), &limit)?;
    }
    for (name, value) in &resources.unified {
        if name.contains('/') || !name.contains('.') || name.starts_with("cgroup.") {
            return Err(Error::Path {
                name: name.clone(),
                reason: "is no resource file of a cgroup, such as memory.high",
            });
        }
        write(name, value)?;
    }
    Ok(())
}

/// `cpu.max` holds both the quota and the period: what is not given stays as it is.
fn cpu_max(directory: &Path, resources: &Resources) -> Result<String> {
    let quota = match resources.cpu_quota {
        Some(quota) if quota > 0 => quota.to_string(),
        Some(_) => "max".to_owned(),
        None => files::read(&directory.join("cpu.max"), |text| {
            text.split_ascii_whitespace().next().unwrap_or("max").to_owned()
        })?,
    };
    Ok(match resources.cpu_period {
        Some(period) => format!("{quota} {period}"),
        // Without a period the kernel keeps the old one.
        None => quota,
    })
}

/// The limit comes for memory and swap together; v2 wants that of swap alone.
fn swap(directory: &Path, memory: Option<i64>, both: i64) -> Result<()> {
    let memory = match memory {
        Some(limit) => u64::try_from(limit).ok(),
        None => files::limit_if_there(&directory.join("memory.max"))?,
    };
    let value = match (u64::try_from(both), memory) {
        (Err(_), _) => "max".to_owned(),
        (Ok(both), Some(memory)) if both >= memory => (both - memory).to_string(),
        (Ok(both), _) => {
            return Err(Error::Unsupported {
                what: format!("a limit of memory and swap of {both} bytes"),
                reason: "it is lower than the limit of memory",
            });
        }
    };
    // Without swap accounting the file is missing, and with it the limit.
    files::write_if_there(&directory.join("memory.swap.max"), &value).map(drop)
}

fn max_or(limit: i64) -> String {
    if limit < 0 { "max".to_owned() } else { limit.to_string() }
}
