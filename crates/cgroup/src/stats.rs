//! The figures a cgroup keeps, always with all that is below it.

use std::time::SystemTime;

/// What was read at one time. A figure is `None` where its controller is missing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stats {
    /// When.
    pub at: SystemTime,
    /// Processor time.
    pub cpu: Option<Cpu>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Swap.
    pub swap: Option<Swap>,
    /// Tasks.
    pub pids: Option<Pids>,
}

/// The figures that lists are made of: what few files tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// When.
    pub at: SystemTime,
    /// Processor time since it was made, in nanoseconds on all processors.
    pub cpu_ns: Option<u64>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Swap.
    pub swap: Option<Swap>,
}

/// Processor time since the cgroup was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// Nanoseconds on all processors (v1: cpuacct.usage; v2: usage_usec of cpu.stat).
    pub usage_ns: u64,
    /// Of these, in user mode.
    pub user_ns: u64,
    /// Of these, in the kernel.
    pub system_ns: u64,
}

/// Memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// All that is charged, the page cache included.
    pub usage: u64,
    /// Usage without file pages that the kernel could drop at once (inactive ones).
    pub working_set: u64,
    /// Anonymous memory (v1: total_rss; v2: anon).
    pub rss: u64,
    /// Page faults since it was made.
    pub page_faults: u64,
    /// Of these, with a read from disk.
    pub major_page_faults: u64,
    /// The limit; `None`: none.
    pub limit: Option<u64>,
}

/// Swap in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swap {
    /// In use.
    pub usage: u64,
    /// The limit of swap alone (v1: what its limit of both leaves); `None`: none.
    pub limit: Option<u64>,
}

/// Memory in more detail, for monitors; bytes where nothing else is said. What the kernel does not
/// tell is 0, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryDetail {
    /// The page cache (v1: total_cache; v2: file).
    pub cache: u64,
    /// Mapped files.
    pub mapped_file: u64,
    /// Memory of the kernel's own.
    pub kernel: u64,
    /// File pages in use.
    pub active_file: u64,
    /// File pages that the kernel could drop at once.
    pub inactive_file: u64,
    /// The most that was ever used (v2: Linux 5.19).
    pub peak: Option<u64>,
    /// How often the limit was hit (v1: memory.failcnt; v2: `max` of memory.events).
    pub limit_hits: u64,
    /// Page faults of it alone, where those below are counted apart (v1).
    pub own_page_faults: Option<u64>,
    /// Of these, with a read from disk.
    pub own_major_page_faults: Option<u64>,
}

/// Huge pages of one size, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hugepages {
    /// Their size, as in `2MB`.
    pub size: String,
    /// In use.
    pub usage: u64,
    /// The most that was ever in use (v1).
    pub peak: Option<u64>,
}

/// Tasks: processes and their threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pids {
    /// Now.
    pub current: u64,
    /// The limit; `None`: none.
    pub limit: Option<u64>,
}

/// How the processor quota worked out (cpu.stat).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Periods in which it ran.
    pub periods: u64,
    /// Periods in which it was held back.
    pub throttled_periods: u64,
    /// For how long, in nanoseconds.
    pub throttled_ns: u64,
}
