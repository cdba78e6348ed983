//! Limits: CRI's numbers as an OCI runtime wants them, for a bundle and for an update.

use berth_pod::spec::Resources;

use crate::error::Error;
use crate::facts::{CgroupDriver, CgroupVersion, NodeFacts};
use crate::spec::{HugepageLimit, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources, Spec};

const MEMORY: &str = "linux.resources.memory_limit_in_bytes";
const SWAP: &str = "linux.resources.memory_swap_limit_in_bytes";

/// What `asked` sets, and nothing else: 0 and "" mean "not specified" in CRI.
///
/// The JSON of it is what `Task.Update` carries.
///
/// # Errors
/// When a number is out of its range, or the node cannot keep it.
pub fn linux_resources(asked: &Resources, node: &NodeFacts) -> Result<LinuxResources, Error> {
    if !asked.unified.is_empty() && node.cgroup_version == CgroupVersion::V1 {
        let text = "cgroup v2 files were given, but this node runs cgroup v1";
        return Err(Error::invalid("linux.resources.unified", text));
    }
    if let Some((size, _)) = asked.hugepages.iter().find(|(_, limit)| **limit > 0 && !node.hugetlb)
    {
        let text = format!("{size}: this node's cgroups have no controller for huge pages");
        return Err(Error::unsupported("linux.resources.hugepage_limits", text));
    }
    // The kubelet names a limit of 0 for every size of the machine.
    let hugepages = asked.hugepages.iter().filter(|_| node.hugetlb);
    Ok(LinuxResources {
        devices: Vec::new(),
        memory: memory(asked, node)?,
        cpu: cpu(asked)?,
        pids: None,
        hugepage_limits: hugepages
            .map(|(size, &limit)| HugepageLimit { page_size: size.clone(), limit })
            .collect(),
        unified: asked.unified.clone(),
    })
}

/// Changes the limits in the bundle of a container that does not run yet, and answers what
/// changed: the same thing that `Task.Update` carries to one that runs.
///
/// # Errors
/// As [`linux_resources`]; the spec is unchanged then.
pub fn update_resources(
    spec: &mut Spec,
    asked: &Resources,
    node: &NodeFacts,
) -> Result<LinuxResources, Error> {
    let now = &mut spec.linux.resources;
    let mut asked = asked.clone();
    if asked.memory_limit == 0 && asked.memory_swap_limit != 0 {
        asked.memory_limit = now.memory.limit.unwrap_or_default();
    }
    let mut change = linux_resources(&asked, node)?;
    let oom_score_adj = oom_score_adj(asked.oom_score_adj, node)?;
    if asked.memory_swap_limit == 0 {
        keep_swap(&now.memory, &mut change.memory);
    }
    merge(&mut now.memory.limit, &change.memory.limit);
    merge(&mut now.memory.swap, &change.memory.swap);
    merge(&mut now.cpu.shares, &change.cpu.shares);
    merge(&mut now.cpu.quota, &change.cpu.quota);
    merge(&mut now.cpu.period, &change.cpu.period);
    merge_text(&mut now.cpu.cpus, &change.cpu.cpus);
    merge_text(&mut now.cpu.mems, &change.cpu.mems);
    for limit in &change.hugepage_limits {
        now.hugepage_limits.retain(|old| old.page_size != limit.page_size);
        now.hugepage_limits.push(limit.clone());
    }
    now.unified.extend(change.unified.clone());
    if let Some(process) = spec.process.as_mut().filter(|_| asked.oom_score_adj != 0) {
        process.oom_score_adj = Some(oom_score_adj);
    }
    Ok(change)
}

fn merge<T: Copy>(now: &mut Option<T>, change: &Option<T>) {
    if change.is_some() {
        *now = *change;
    }
}

fn merge_text(now: &mut String, change: &str) {
    if !change.is_empty() {
        change.clone_into(now);
    }
}

/// An update of memory alone leaves a swap allowance that was asked for earlier, where it fits.
fn keep_swap(now: &LinuxMemory, change: &mut LinuxMemory) {
    let (Some(limit), Some(swap)) = (change.limit, now.swap) else { return };
    let was_allowed = now.limit != Some(swap);
    if was_allowed && (swap == -1 || (limit != -1 && swap >= limit)) {
        change.swap = Some(swap);
    }
}

/// The limits of a new container.
pub(crate) fn initial(asked: &Resources, node: &NodeFacts) -> Result<LinuxResources, Error> {
    let mut resources = linux_resources(asked, node)?;
    // A scope that is given no limit gets a part of the machine's from systemd (DefaultTasksMax).
    let unlimited = (node.cgroup_driver == CgroupDriver::Systemd).then_some(-1);
    resources.pids = node.pids_limit.or(unlimited).map(|limit| LinuxPids { limit });
    Ok(resources)
}

/// Memory and swap count together. A memory limit without a swap limit means no swap at all:
/// otherwise half of a container's memory could sit on a disk that nobody asked to use.
fn memory(asked: &Resources, node: &NodeFacts) -> Result<LinuxMemory, Error> {
    let (limit, swap) = (asked.memory_limit, asked.memory_swap_limit);
    if limit < -1 {
        return Err(Error::invalid(MEMORY, format!("{limit} must be positive, or -1 for none")));
    }
    if swap < -1 {
        return Err(Error::invalid(SWAP, format!("{swap} must be positive, or -1 for none")));
    }
    if swap > 0 && limit <= 0 {
        return Err(Error::invalid(SWAP, "needs a memory limit beside it"));
    }
    if swap > 0 && swap < limit {
        let text = format!("{swap} counts memory too, so it must be at least {limit}");
        return Err(Error::invalid(SWAP, text));
    }
    let total = if swap != 0 { swap } else { limit };
    let total = (total != 0 && node.swap_limit).then_some(total);
    Ok(LinuxMemory { limit: (limit != 0).then_some(limit), swap: total, ..LinuxMemory::default() })
}

fn cpu(asked: &Resources) -> Result<LinuxCpu, Error> {
    let positive = |field: &str, value: i64| match u64::try_from(value) {
        Ok(0) => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(_) => {
            Err(Error::invalid(format!("linux.resources.{field}"), format!("{value} is negative")))
        }
    };
    let list = |field: &str, text: &str| {
        let fine = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b',' | b'-' | b' '));
        if fine {
            return Ok(text.to_owned());
        }
        let problem = format!("{text:?} is not a list such as 0-3,7");
        Err(Error::invalid(format!("linux.resources.{field}"), problem))
    };
    Ok(LinuxCpu {
        // The kernel's own bounds on v1; below them, the conversion to v2 weights goes wrong.
        shares: positive("cpu_shares", asked.cpu_shares)?.map(|shares| shares.clamp(2, 262_144)),
        quota: (asked.cpu_quota != 0).then_some(asked.cpu_quota.max(-1)),
        period: positive("cpu_period", asked.cpu_period)?,
        cpus: list("cpuset_cpus", &asked.cpuset_cpus)?,
        mems: list("cpuset_mems", &asked.cpuset_mems)?,
        ..LinuxCpu::default()
    })
}

/// `value` within what the kernel takes and what this daemon may give.
///
/// # Errors
/// When it is outside -1000..=1000.
pub fn oom_score_adj(value: i64, node: &NodeFacts) -> Result<i32, Error> {
    let given = i32::try_from(value).ok().filter(|v| (-1000..=1000).contains(v));
    let Some(given) = given else {
        let text = format!("{value} must be between -1000 and 1000");
        return Err(Error::invalid("linux.resources.oom_score_adj", text));
    };
    Ok(node.oom_floor.map_or(given, |floor| given.max(floor.clamp(-1000, 1000))))
}
