//! What can be limited.

use std::collections::BTreeMap;

/// Limits to be written; `None` leaves a limit as it is.
///
/// The units are those of the OCI runtime specification (config-linux.md).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Relative share of processor time, 2 to 262144 (v1: cpu.shares; v2: see [`crate::weight`]).
    pub cpu_shares: Option<u64>,
    /// Microseconds of processor time per period; negative: no limit.
    pub cpu_quota: Option<i64>,
    /// The period in microseconds, 1000 to 1000000.
    pub cpu_period: Option<u64>,
    /// Processors, as a list such as `0-3,8`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes, as a list.
    pub cpuset_mems: Option<String>,
    /// Bytes of memory; negative: no limit.
    pub memory_limit: Option<i64>,
    /// Bytes of memory and swap together; negative: no limit. Where the kernel accounts for no
    /// swap this is left out.
    pub memory_swap_limit: Option<i64>,
    /// Number of tasks; zero or negative: no limit.
    pub pids_limit: Option<i64>,
    /// Huge pages by size.
    pub hugepages: Vec<HugepageLimit>,
    /// Files of v2 and their values (`memory.high` → `1073741824`). Not possible on v1.
    pub unified: BTreeMap<String, String>,
}

/// A limit of huge pages of one size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HugepageLimit {
    /// The size as the kernel writes it: `2MB`, `1GB`.
    pub page_size: String,
    /// Bytes.
    pub limit: u64,
}
