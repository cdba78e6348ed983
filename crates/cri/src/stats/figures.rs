//! A cgroup's figures, in CRI's words.

use std::time::UNIX_EPOCH;

use berth_cgroup::{Cgroups, Pressure, Pressures, Stall, Usage};
use berth_proto::cri::v1 as cri;

/// What was read of one cgroup; empty when there is none.
pub(super) struct Figures {
    /// When, ns since the epoch.
    pub(super) at: i64,
    usage: Option<Usage>,
    tasks: Option<u64>,
    pressures: Option<Pressures>,
}

impl Figures {
    /// Reads a cgroup.
    pub(super) fn read(cgroups: &Cgroups, path: Option<&str>) -> Self {
        // Absent before the start and after the exit: that is no error.
        let cgroup = path.and_then(|path| cgroups.at(path).ok());
        let usage = cgroup.as_ref().and_then(|cgroup| cgroup.usage().ok());
        let at = usage.map(|usage| usage.at.duration_since(UNIX_EPOCH).unwrap_or_default());
        let at = at.and_then(|at| i64::try_from(at.as_nanos()).ok());
        Self {
            at: at.unwrap_or_else(crate::describe::now),
            pressures: cgroup.and_then(|cgroup| cgroup.pressures().ok().flatten()),
            usage,
            tasks: None,
        }
    }

    /// What was counted of a container that no cgroup counts.
    pub(super) fn of(usage: Usage) -> Self {
        let at = usage.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = i64::try_from(at.as_nanos()).unwrap_or_else(|_| crate::describe::now());
        Self { at, usage: Some(usage), tasks: None, pressures: None }
    }

    /// Reads a pod's cgroup, its number of tasks included.
    pub(super) fn read_pod(cgroups: &Cgroups, path: Option<&str>) -> Self {
        let cgroup = path.and_then(|path| cgroups.at(path).ok());
        let tasks = cgroup.and_then(|cgroup| cgroup.tasks().ok().flatten());
        Self { tasks, ..Self::read(cgroups, path) }
    }

    /// CPU time used so far.
    pub(super) fn cpu_time(&self) -> Option<u64> {
        self.usage?.cpu_ns
    }

    /// CPU; `rate` is what the samples say.
    pub(super) fn cpu(&self, rate: Option<u64>) -> cri::CpuUsage {
        cri::CpuUsage {
            timestamp: self.at,
            usage_core_nano_seconds: self.cpu_time().map(number),
            usage_nano_cores: rate.map(number),
            psi: self.pressures.map(|pressures| psi(pressures.cpu)),
        }
    }

    /// Memory.
    pub(super) fn memory(&self) -> cri::MemoryUsage {
        let memory = self.usage.and_then(|usage| usage.memory);
        let available = memory.and_then(|m| Some(m.limit?.saturating_sub(m.working_set)));
        cri::MemoryUsage {
            timestamp: self.at,
            working_set_bytes: memory.map(|m| number(m.working_set)),
            available_bytes: available.map(number),
            usage_bytes: memory.map(|m| number(m.usage)),
            rss_bytes: memory.map(|m| number(m.rss)),
            page_faults: memory.map(|m| number(m.page_faults)),
            major_page_faults: memory.map(|m| number(m.major_page_faults)),
            psi: self.pressures.map(|pressures| psi(pressures.memory)),
        }
    }

    /// Swap, where it is accounted for.
    pub(super) fn swap(&self) -> Option<cri::SwapUsage> {
        let swap = self.usage?.swap?;
        Some(cri::SwapUsage {
            timestamp: self.at,
            swap_available_bytes: swap.limit.map(|limit| number(limit.saturating_sub(swap.usage))),
            swap_usage_bytes: Some(number(swap.usage)),
        })
    }

    /// Block I/O pressure.
    pub(super) fn io(&self) -> cri::IoUsage {
        cri::IoUsage { timestamp: self.at, psi: self.pressures.map(|all| psi(all.io)) }
    }

    /// Processes and threads.
    pub(super) fn processes(&self) -> cri::ProcessUsage {
        cri::ProcessUsage { timestamp: self.at, process_count: self.tasks.map(number) }
    }
}

/// A number that is there.
pub(super) fn number(value: u64) -> cri::UInt64Value {
    cri::UInt64Value { value }
}

fn psi(pressure: Pressure) -> cri::PsiStats {
    let data = |stall: Stall| cri::PsiData {
        // CRI counts ns, the kernel µs.
        total: stall.total_us.saturating_mul(1_000),
        avg10: stall.avg10,
        avg60: stall.avg60,
        avg300: stall.avg300,
    };
    cri::PsiStats { full: Some(data(pressure.full)), some: Some(data(pressure.some)) }
}
