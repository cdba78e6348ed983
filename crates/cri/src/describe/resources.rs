//! Limits.

use berth_pod::spec::Resources;
use berth_proto::cri::v1 as cri;

/// Limits as they stand, in CRI's words.
pub(super) fn resources(given: &Resources) -> cri::ContainerResources {
    let hugepage = |(size, limit): (&String, &u64)| cri::HugepageLimit {
        page_size: size.clone(),
        limit: *limit,
    };
    cri::ContainerResources {
        linux: Some(cri::LinuxContainerResources {
            cpu_period: given.cpu_period,
            cpu_quota: given.cpu_quota,
            cpu_shares: given.cpu_shares,
            memory_limit_in_bytes: given.memory_limit,
            oom_score_adj: given.oom_score_adj,
            cpuset_cpus: given.cpuset_cpus.clone(),
            cpuset_mems: given.cpuset_mems.clone(),
            hugepage_limits: given.hugepages.iter().map(hugepage).collect(),
            unified: given.unified.clone(),
            memory_swap_limit_in_bytes: given.memory_swap_limit,
        }),
        windows: None,
    }
}
