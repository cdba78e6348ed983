//! Reading figures on v2.

use std::path::Path;
use std::time::SystemTime;

use crate::error::Result;
use crate::files::{self, field};
use crate::io::{self, DeviceIo, Pressure, Pressures};
use crate::stats::{Cpu, Hugepages, Memory, MemoryDetail, Pids, Stats, Swap, Throttling, Usage};

const NS_PER_US: u64 = 1000;

pub(super) fn stats(directory: &Path) -> Result<Stats> {
    let cpu = cpu(directory)?;
    let Usage { at, memory, swap, .. } = beside(cpu, directory)?;
    let pids = match tasks(directory)? {
        Some(current) => {
            Some(Pids { current, limit: files::limit_if_there(&directory.join("pids.max"))? })
        }
        None => None,
    };
    Ok(Stats { at, cpu: Some(cpu), memory, swap, pids })
}

pub(super) fn usage(directory: &Path) -> Result<Usage> {
    beside(cpu(directory)?, directory)
}

fn beside(cpu: Cpu, directory: &Path) -> Result<Usage> {
    let at = SystemTime::now();
    let swap = match files::number_if_there(&directory.join("memory.swap.current"))? {
        Some(usage) => {
            Some(Swap { usage, limit: files::limit_if_there(&directory.join("memory.swap.max"))? })
        }
        None => None,
    };
    Ok(Usage { at, cpu_ns: Some(cpu.usage_ns), memory: memory(directory)?, swap })
}

/// cpu.stat is there with its three times even without the cpu controller: its absence means that
/// the cgroup is gone.
fn cpu(directory: &Path) -> Result<Cpu> {
    files::read(&directory.join("cpu.stat"), |text| {
        let of = |key| field(text, key).unwrap_or(0).saturating_mul(NS_PER_US);
        Cpu { usage_ns: of("usage_usec"), user_ns: of("user_usec"), system_ns: of("system_usec") }
    })
}

pub(super) fn tasks(directory: &Path) -> Result<Option<u64>> {
    files::number_if_there(&directory.join("pids.current"))
}

fn memory(directory: &Path) -> Result<Option<Memory>> {
    let Some(usage) = files::number_if_there::<u64>(&directory.join("memory.current"))? else {
        return Ok(None);
    };
    let limit = files::limit_if_there(&directory.join("memory.max"))?;
    files::read_if_there(&directory.join("memory.stat"), |text| {
        let of = |key| field(text, key).unwrap_or(0);
        Memory {
            usage,
            working_set: usage.saturating_sub(of("inactive_file")),
            rss: of("anon"),
            page_faults: of("pgfault"),
            major_page_faults: of("pgmajfault"),
            limit,
        }
    })
}

pub(super) fn memory_detail(directory: &Path) -> Result<Option<MemoryDetail>> {
    let detail = files::read_if_there(&directory.join("memory.stat"), |text| {
        let mut detail = MemoryDetail::default();
        for (key, value) in files::lines(text) {
            match key {
                "file" => detail.cache = value,
                "file_mapped" => detail.mapped_file = value,
                "kernel" => detail.kernel = value,
                "active_file" => detail.active_file = value,
                "inactive_file" => detail.inactive_file = value,
                _ => {}
            }
        }
        detail
    })?;
    let Some(detail) = detail else { return Ok(None) };
    let hits = files::read_if_there(&directory.join("memory.events"), |text| field(text, "max"))?;
    Ok(Some(MemoryDetail {
        peak: files::number_if_there(&directory.join("memory.peak"))?,
        limit_hits: hits.flatten().unwrap_or(0),
        ..detail
    }))
}

pub(super) fn hugepages(directory: &Path, size: &str) -> Result<Option<Hugepages>> {
    let usage = files::number_if_there(&directory.join(format!("hugetlb.{size}.current")))?;
    Ok(usage.map(|usage| Hugepages { size: size.to_owned(), usage, peak: None }))
}

pub(super) fn throttling(directory: &Path) -> Result<Option<Throttling>> {
    let read = files::read_if_there(&directory.join("cpu.stat"), |text| {
        Some(Throttling {
            periods: field(text, "nr_periods")?,
            throttled_periods: field(text, "nr_throttled").unwrap_or(0),
            throttled_ns: field(text, "throttled_usec").unwrap_or(0).saturating_mul(NS_PER_US),
        })
    })?;
    Ok(read.flatten())
}

pub(super) fn io(directory: &Path) -> Result<Vec<DeviceIo>> {
    let read = files::read_if_there(&directory.join("io.stat"), io::parse_v2)?;
    Ok(read.unwrap_or_default())
}

pub(super) fn pressures(directory: &Path) -> Result<Option<Pressures>> {
    let read = |name: &str| files::read_if_there(&directory.join(name), Pressure::parse);
    let (cpu, memory, io) = (read("cpu.pressure")?, read("memory.pressure")?, read("io.pressure")?);
    if cpu.is_none() && memory.is_none() && io.is_none() {
        return Ok(None);
    }
    Ok(Some(Pressures {
        cpu: cpu.unwrap_or_default(),
        memory: memory.unwrap_or_default(),
        io: io.unwrap_or_default(),
    }))
}
