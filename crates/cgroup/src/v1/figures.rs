//! Reading figures on v1.

use std::path::Path;
use std::time::SystemTime;

use super::V1;
use crate::error::Result;
use crate::files::{self, field};
use crate::io::{self, DeviceIo};
use crate::path::CgroupPath;
use crate::stats::{Cpu, Hugepages, Memory, MemoryDetail, Pids, Stats, Swap, Throttling, Usage};
use crate::{Controller, Layout};

pub(super) fn stats(v1: &V1, path: &CgroupPath) -> Result<Stats> {
    let Usage { at, cpu_ns, memory, swap } = usage(v1, path)?;
    let cpu = match (v1.place(path, Controller::Cpuacct), cpu_ns) {
        (Some(directory), Some(usage_ns)) => Some(cpu(&directory, usage_ns)?),
        _ => None,
    };
    Ok(Stats { at, cpu, memory, swap, pids: pids(v1, path)? })
}

pub(super) fn usage(v1: &V1, path: &CgroupPath) -> Result<Usage> {
    let at = SystemTime::now();
    let cpu_ns = match v1.place(path, Controller::Cpuacct) {
        Some(directory) => Some(files::number(&directory.join("cpuacct.usage"))?),
        None => None,
    };
    let (memory, swap) = match v1.place(path, Controller::Memory) {
        Some(directory) => {
            let (memory, swap) = memory(&directory)?;
            (Some(memory), swap)
        }
        None => (None, None),
    };
    Ok(Usage { at, cpu_ns, memory, swap })
}

fn cpu(directory: &Path, usage_ns: u64) -> Result<Cpu> {
    Ok(Cpu {
        usage_ns,
        user_ns: files::number_if_there(&directory.join("cpuacct.usage_user"))?.unwrap_or(0),
        system_ns: files::number_if_there(&directory.join("cpuacct.usage_sys"))?.unwrap_or(0),
    })
}

fn memory(directory: &Path) -> Result<(Memory, Option<Swap>)> {
    let usage: u64 = files::number(&directory.join("memory.usage_in_bytes"))?;
    let stat = files::read(&directory.join("memory.stat"), Stat::parse)?;
    // Where nothing limits it from above either, it has no limit of its own.
    let own = |limit_from_above: Option<u64>, name: &str| match limit_from_above {
        Some(limit) if files::limits(limit) => files::limit_if_there(&directory.join(name)),
        _ => Ok(None),
    };
    let limit = own(stat.limit_from_above, "memory.limit_in_bytes")?;
    let memory = Memory {
        usage,
        working_set: usage.saturating_sub(stat.inactive_file),
        rss: stat.rss,
        page_faults: stat.page_faults,
        major_page_faults: stat.major_page_faults,
        limit,
    };
    // Swap is told exactly where the kernel accounts for it.
    let Some(usage) = stat.swap else { return Ok((memory, None)) };
    let both = own(stat.limit_of_both_from_above, "memory.memsw.limit_in_bytes")?;
    let limit = both.map(|both| both.saturating_sub(limit.unwrap_or(0).min(both)));
    Ok((memory, Some(Swap { usage, limit })))
}

/// What is read of memory.stat: long, and read for every container of a list.
#[derive(Default)]
struct Stat {
    limit_from_above: Option<u64>,
    limit_of_both_from_above: Option<u64>,
    inactive_file: u64,
    rss: u64,
    page_faults: u64,
    major_page_faults: u64,
    swap: Option<u64>,
}

impl Stat {
    fn parse(text: &str) -> Self {
        let mut stat = Self::default();
        for (key, value) in files::lines(text) {
            match key {
                "hierarchical_memory_limit" => stat.limit_from_above = Some(value),
                "hierarchical_memsw_limit" => stat.limit_of_both_from_above = Some(value),
                "total_inactive_file" => stat.inactive_file = value,
                "total_rss" => stat.rss = value,
                "total_pgfault" => stat.page_faults = value,
                "total_pgmajfault" => stat.major_page_faults = value,
                "total_swap" => stat.swap = Some(value),
                _ => {}
            }
        }
        stat
    }
}

pub(super) fn memory_detail(v1: &V1, path: &CgroupPath) -> Result<Option<MemoryDetail>> {
    let Some(directory) = v1.directory(path, Controller::Memory) else { return Ok(None) };
    let number = |name: &str| files::number_if_there::<u64>(&directory.join(name));
    let detail = files::read(&directory.join("memory.stat"), |text| {
        let mut detail = MemoryDetail::default();
        for (key, value) in files::lines(text) {
            match key {
                "total_cache" => detail.cache = value,
                "total_mapped_file" => detail.mapped_file = value,
                "total_active_file" => detail.active_file = value,
                "total_inactive_file" => detail.inactive_file = value,
                "pgfault" => detail.own_page_faults = Some(value),
                "pgmajfault" => detail.own_major_page_faults = Some(value),
                _ => {}
            }
        }
        detail
    })?;
    Ok(Some(MemoryDetail {
        kernel: number("memory.kmem.usage_in_bytes")?.unwrap_or(0),
        peak: number("memory.max_usage_in_bytes")?,
        limit_hits: number("memory.failcnt")?.unwrap_or(0),
        ..detail
    }))
}

pub(super) fn hugepages(v1: &V1, path: &CgroupPath, size: &str) -> Result<Option<Hugepages>> {
    let Some(directory) = v1.directory(path, Controller::Hugetlb) else { return Ok(None) };
    let number = |end: &str| {
        files::number_if_there(&directory.join(format!("hugetlb.{size}.{end}_in_bytes")))
    };
    let Some(usage) = number("usage")? else { return Ok(None) };
    Ok(Some(Hugepages { size: size.to_owned(), usage, peak: number("max_usage")? }))
}

/// How many tasks there are.
pub(super) fn tasks(v1: &V1, path: &CgroupPath) -> Result<Option<u64>> {
    match v1.place(path, Controller::Pids) {
        Some(directory) => files::number_if_there(&directory.join("pids.current")),
        None => Ok(None),
    }
}

fn pids(v1: &V1, path: &CgroupPath) -> Result<Option<Pids>> {
    let (Some(directory), Some(current)) = (v1.place(path, Controller::Pids), tasks(v1, path)?)
    else {
        return Ok(None);
    };
    Ok(Some(Pids { current, limit: files::limit_if_there(&directory.join("pids.max"))? }))
}

pub(super) fn throttling(v1: &V1, path: &CgroupPath) -> Result<Option<Throttling>> {
    let Some(directory) = v1.directory(path, Controller::Cpu) else { return Ok(None) };
    files::read_if_there(&directory.join("cpu.stat"), |text| {
        let of = |key| field(text, key).unwrap_or(0);
        Throttling {
            periods: of("nr_periods"),
            throttled_periods: of("nr_throttled"),
            throttled_ns: of("throttled_time"),
        }
    })
}

pub(super) fn io(v1: &V1, path: &CgroupPath) -> Result<Vec<DeviceIo>> {
    let Some(directory) = v1.directory(path, Controller::Io) else { return Ok(Vec::new()) };
    let read = |name: &str| files::read_if_there(&directory.join(name), str::to_owned);
    let bytes = read("blkio.throttle.io_service_bytes_recursive")?.unwrap_or_default();
    let operations = read("blkio.throttle.io_serviced_recursive")?.unwrap_or_default();
    Ok(io::parse_v1(&bytes, &operations))
}
