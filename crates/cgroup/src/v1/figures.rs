//! Reading figures on v1.

use std::path::Path;
use std::time::SystemTime;

use super::V1;
use crate::error::Result;
use crate::files::{self, field};
use crate::io::{self, DeviceIo};
use crate::path::CgroupPath;
use crate::stats::{Cpu, Memory, Pids, Stats, Swap, Throttling};
use crate::{Controller, Layout};

pub(super) fn stats(v1: &V1, path: &CgroupPath) -> Result<Stats> {
    let at = SystemTime::now();
    let cpu = match v1.place(path, Controller::Cpuacct) {
        Some(directory) => Some(cpu(&directory)?),
        None => None,
    };
    let (memory, swap) = match v1.place(path, Controller::Memory) {
        Some(directory) => {
            let (memory, swap) = memory(&directory)?;
            (Some(memory), swap)
        }
        None => (None, None),
    };
    let pids = match v1.place(path, Controller::Pids) {
        Some(directory) => pids(&directory)?,
        None => None,
    };
    Ok(Stats { at, cpu, memory, swap, pids })
}

fn cpu(directory: &Path) -> Result<Cpu> {
    Ok(Cpu {
        usage_ns: files::number(&directory.join("cpuacct.usage"))?,
        user_ns: files::number_if_there(&directory.join("cpuacct.usage_user"))?.unwrap_or(0),
        system_ns: files::number_if_there(&directory.join("cpuacct.usage_sys"))?.unwrap_or(0),
    })
}

fn memory(directory: &Path) -> Result<(Memory, Option<Swap>)> {
    let usage: u64 = files::number(&directory.join("memory.usage_in_bytes"))?;
    let limit = files::limit_if_there(&directory.join("memory.limit_in_bytes"))?;
    let (memory, swapped) = files::read(&directory.join("memory.stat"), |text| {
        let of = |key| field(text, key).unwrap_or(0);
        let memory = Memory {
            usage,
            working_set: usage.saturating_sub(of("total_inactive_file")),
            rss: of("total_rss"),
            page_faults: of("total_pgfault"),
            major_page_faults: of("total_pgmajfault"),
            limit,
        };
        (memory, field(text, "total_swap"))
    })?;
    let both = files::limit_if_there(&directory.join("memory.memsw.limit_in_bytes"))?;
    // `total_swap` is there exactly where the kernel accounts for swap.
    let swap = swapped.map(|usage| Swap {
        usage,
        limit: both.map(|both| both.saturating_sub(limit.unwrap_or(0).min(both))),
    });
    Ok((memory, swap))
}

fn pids(directory: &Path) -> Result<Option<Pids>> {
    let Some(current) = files::number_if_there(&directory.join("pids.current"))? else {
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
