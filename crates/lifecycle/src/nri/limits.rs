//! Limits as plugins have them, and as pods do.

use berth_nri::api::{
    HugepageLimit, LinuxCpu, LinuxMemory, LinuxResources, OptionalInt64, OptionalUInt64,
};
use berth_pod::spec::Resources;

/// Limits as plugins have them; what is not set is left out.
pub(crate) fn shown(resources: &Resources) -> LinuxResources {
    let signed = |value: i64| (value != 0).then_some(OptionalInt64 { value });
    let unsigned = |value: i64| u64::try_from(value).ok().filter(|value| *value != 0);
    let unsigned = |value: i64| unsigned(value).map(|value| OptionalUInt64 { value });
    LinuxResources {
        memory: Some(LinuxMemory {
            limit: signed(resources.memory_limit),
            swap: signed(resources.memory_swap_limit),
            ..LinuxMemory::default()
        }),
        cpu: Some(LinuxCpu {
            shares: unsigned(resources.cpu_shares),
            quota: signed(resources.cpu_quota),
            period: unsigned(resources.cpu_period),
            cpus: resources.cpuset_cpus.clone(),
            mems: resources.cpuset_mems.clone(),
            ..LinuxCpu::default()
        }),
        hugepage_limits: resources
            .hugepages
            .iter()
            .map(|(size, &limit)| HugepageLimit { page_size: size.clone(), limit })
            .collect(),
        unified: resources.unified.clone(),
        ..LinuxResources::default()
    }
}

/// The part of them that pods have; what is not set is 0 or empty.
pub(crate) fn taken(resources: &LinuxResources) -> Resources {
    let signed = |value: &Option<OptionalInt64>| value.map(|v| v.value).unwrap_or_default();
    let unsigned = |value: &Option<OptionalUInt64>| {
        value.and_then(|v| i64::try_from(v.value).ok()).unwrap_or_default()
    };
    let memory = resources.memory.unwrap_or_default();
    let cpu = resources.cpu.clone().unwrap_or_default();
    let pages = &resources.hugepage_limits;
    Resources {
        cpu_period: unsigned(&cpu.period),
        cpu_quota: signed(&cpu.quota),
        cpu_shares: unsigned(&cpu.shares),
        memory_limit: signed(&memory.limit),
        memory_swap_limit: signed(&memory.swap),
        oom_score_adj: 0,
        cpuset_cpus: cpu.cpus,
        cpuset_mems: cpu.mems,
        hugepages: pages.iter().map(|one| (one.page_size.clone(), one.limit)).collect(),
        unified: resources.unified.clone(),
    }
}

/// What of them can be set when a container is created, and not changed later.
pub(crate) fn unchangeable(resources: &LinuxResources) -> Vec<&'static str> {
    let memory = resources.memory.unwrap_or_default();
    let all = [
        ("memory.reservation", memory.reservation.is_some()),
        ("pids", resources.pids.is_some()),
        ("devices", !resources.devices.is_empty()),
        ("blockio_class", resources.blockio_class.is_some()),
        ("rdt_class", resources.rdt_class.is_some()),
    ];
    let all = all.into_iter().chain(of_v1(resources));
    all.filter(|(_, set)| *set).map(|(name, _)| name).collect()
}

/// What of them only cgroup v1 has, and whether it is set.
pub(super) fn of_v1(resources: &LinuxResources) -> [(&'static str, bool); 7] {
    let memory = resources.memory.unwrap_or_default();
    let cpu = resources.cpu.clone().unwrap_or_default();
    [
        ("memory.kernel", memory.kernel.is_some()),
        ("memory.kernel_tcp", memory.kernel_tcp.is_some()),
        ("memory.swappiness", memory.swappiness.is_some()),
        ("memory.disable_oom_killer", memory.disable_oom_killer.is_some()),
        ("memory.use_hierarchy", memory.use_hierarchy.is_some()),
        ("cpu.realtime_runtime", cpu.realtime_runtime.is_some()),
        ("cpu.realtime_period", cpu.realtime_period.is_some()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_come_back_as_they_were() {
        let resources = Resources {
            cpu_period: 50_000,
            cpu_quota: -1,
            cpu_shares: 512,
            memory_limit: 64 << 20,
            memory_swap_limit: 128 << 20,
            oom_score_adj: 0,
            cpuset_cpus: "0-1".into(),
            cpuset_mems: "0".into(),
            hugepages: [("2MB".to_owned(), 4 << 20)].into(),
            unified: [("memory.high".to_owned(), "1".to_owned())].into(),
        };
        assert_eq!(taken(&shown(&resources)), resources);
        assert_eq!(taken(&shown(&Resources::default())), Resources::default());
        assert!(unchangeable(&shown(&resources)).is_empty());
    }

    #[test]
    fn what_is_not_set_stays() {
        let below = Resources { cpu_shares: 5, memory_limit: 7, ..Resources::default() };
        let upper = Resources { memory_limit: 9, ..Resources::default() };
        let both = upper.over(&below);
        assert_eq!((both.cpu_shares, both.memory_limit), (5, 9));
    }
}
