//! Limits, laid over limits.

use berth_proto::nri::v1alpha1::{Field, LinuxCpu, LinuxMemory, LinuxResources};

use crate::owners::Claim;

/// What these limits set, each of which has one owner.
pub(crate) fn claims(resources: &LinuxResources) -> Vec<Claim> {
    let mut fields = Vec::new();
    if let Some(memory) = &resources.memory {
        fields.extend([
            (Field::MemLimit, memory.limit.is_some()),
            (Field::MemReservation, memory.reservation.is_some()),
            (Field::MemSwapLimit, memory.swap.is_some()),
            (Field::MemKernelLimit, memory.kernel.is_some()),
            (Field::MemTcpLimit, memory.kernel_tcp.is_some()),
            (Field::MemSwappiness, memory.swappiness.is_some()),
            (Field::MemDisableOomKiller, memory.disable_oom_killer.is_some()),
            (Field::MemUseHierarchy, memory.use_hierarchy.is_some()),
        ]);
    }
    if let Some(cpu) = &resources.cpu {
        fields.extend([
            (Field::CpuShares, cpu.shares.is_some()),
            (Field::CpuQuota, cpu.quota.is_some()),
            (Field::CpuPeriod, cpu.period.is_some()),
            (Field::CpuRealtimeRuntime, cpu.realtime_runtime.is_some()),
            (Field::CpuRealtimePeriod, cpu.realtime_period.is_some()),
            (Field::CpuSetCpUs, !cpu.cpus.is_empty()),
            (Field::CpuSetMems, !cpu.mems.is_empty()),
        ]);
    }
    fields.extend([
        (Field::PidsLimit, resources.pids.is_some()),
        (Field::BlockioClass, resources.blockio_class.is_some()),
        (Field::RdtClass, resources.rdt_class.is_some()),
    ]);
    let set = fields.into_iter().filter(|(_, set)| *set).map(|(field, _)| Claim::of(field));
    let pages = resources.hugepage_limits.iter();
    let pages = pages.map(|limit| Claim::one(Field::HugepageLimits, &limit.page_size));
    let files = resources.unified.keys().map(|key| Claim::one(Field::CgroupsUnified, key));
    set.chain(pages).chain(files).collect()
}

fn over<T: Clone>(below: &mut Option<T>, upper: &Option<T>) {
    if upper.is_some() {
        below.clone_from(upper);
    }
}

/// Lays `upper` over `below`: what it sets, it sets.
pub(crate) fn lay(below: &mut LinuxResources, upper: &LinuxResources) {
    if let Some(memory) = &upper.memory {
        lay_memory(below.memory.get_or_insert_default(), memory);
    }
    if let Some(cpu) = &upper.cpu {
        lay_cpu(below.cpu.get_or_insert_default(), cpu);
    }
    for limit in &upper.hugepage_limits {
        below.hugepage_limits.retain(|old| old.page_size != limit.page_size);
        below.hugepage_limits.push(limit.clone());
    }
    below.unified.extend(upper.unified.clone());
    below.devices.extend(upper.devices.iter().cloned());
    over(&mut below.blockio_class, &upper.blockio_class);
    over(&mut below.rdt_class, &upper.rdt_class);
    over(&mut below.pids, &upper.pids);
}

fn lay_memory(below: &mut LinuxMemory, upper: &LinuxMemory) {
    over(&mut below.limit, &upper.limit);
    over(&mut below.reservation, &upper.reservation);
    over(&mut below.swap, &upper.swap);
    over(&mut below.kernel, &upper.kernel);
    over(&mut below.kernel_tcp, &upper.kernel_tcp);
    over(&mut below.swappiness, &upper.swappiness);
    over(&mut below.disable_oom_killer, &upper.disable_oom_killer);
    over(&mut below.use_hierarchy, &upper.use_hierarchy);
}

fn lay_cpu(below: &mut LinuxCpu, upper: &LinuxCpu) {
    over(&mut below.shares, &upper.shares);
    over(&mut below.quota, &upper.quota);
    over(&mut below.period, &upper.period);
    over(&mut below.realtime_runtime, &upper.realtime_runtime);
    over(&mut below.realtime_period, &upper.realtime_period);
    for (below, upper) in [(&mut below.cpus, &upper.cpus), (&mut below.mems, &upper.mems)] {
        if !upper.is_empty() {
            below.clone_from(upper);
        }
    }
}
