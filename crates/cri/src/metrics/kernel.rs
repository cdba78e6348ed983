//! The series that a cgroup gives, a container's or a pod's.

use std::path::Path;
use std::time::Duration;

use berth_cgroup::{Cgroup, DeviceIo, MemoryDetail, Pressures, Stats};

use super::devices::Devices;
use super::families as f;
use super::processes::{self, Open};
use super::writer::Writer;

const PROC: &str = "/proc";

/// What stays the same for all cgroups of a list.
pub(super) struct Reader {
    pub(super) devices: Devices,
    /// Sizes of huge pages.
    pub(super) hugepages: Vec<String>,
    /// What the containers read since the last pod have open: a pod has nothing else.
    pub(super) open: Open,
}

/// Whose cgroup it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// A container's.
    Container,
    /// That of a pod whose containers have just been read.
    Pod,
}

impl Reader {
    /// Reads a cgroup and writes its series; one that is gone has none.
    pub(super) fn read(&mut self, cgroup: &Cgroup, of: Of, out: &mut Writer) {
        let Ok(stats) = cgroup.stats() else { return };
        cpu(cgroup, &stats, out);
        memory(cgroup, &stats, out);
        for pages in cgroup.hugepages(&self.hugepages).unwrap_or_default() {
            out.put(&f::HUGETLB_USAGE, &[&pages.size], pages.usage);
            if let Some(peak) = pages.peak {
                out.put(&f::HUGETLB_MAX, &[&pages.size], peak);
            }
        }
        for io in cgroup.io().unwrap_or_default() {
            disk(&io, self.devices.name(io.major, io.minor), out);
        }
        if let Ok(Some(pressures)) = cgroup.pressures() {
            pressure(&pressures, out);
        }
        let Ok(pids) = cgroup.population() else { return };
        let pids: Vec<_> = pids.into_iter().map(|pid| pid.as_raw_pid()).collect();
        population(&pids, &stats, out);
        let open = match of {
            Of::Container => processes::open(Path::new(PROC), pids.into_iter()),
            Of::Pod => std::mem::take(&mut self.open),
        };
        out.set(&f::FILE_DESCRIPTORS, open.files);
        out.set(&f::SOCKETS, open.sockets);
        if of == Of::Container {
            self.open.files += open.files;
            self.open.sockets += open.sockets;
        }
    }
}

fn cpu(cgroup: &Cgroup, stats: &Stats, out: &mut Writer) {
    let Some(cpu) = stats.cpu else { return };
    out.put(&f::CPU_USAGE, &["total"], seconds_of_ns(cpu.usage_ns));
    out.set(&f::CPU_USER, seconds_of_ns(cpu.user_ns));
    out.set(&f::CPU_SYSTEM, seconds_of_ns(cpu.system_ns));
    // Without a quota nothing is counted.
    let throttling = cgroup.throttling().ok().flatten().unwrap_or_default();
    out.set(&f::CFS_PERIODS, throttling.periods);
    out.set(&f::CFS_THROTTLED_PERIODS, throttling.throttled_periods);
    out.set(&f::CFS_THROTTLED, seconds_of_ns(throttling.throttled_ns));
}

fn memory(cgroup: &Cgroup, stats: &Stats, out: &mut Writer) {
    let Some(memory) = stats.memory else { return };
    out.set(&f::MEMORY_USAGE, memory.usage);
    out.set(&f::MEMORY_WORKING_SET, memory.working_set);
    out.set(&f::MEMORY_RSS, memory.rss);
    out.set(&f::MEMORY_SWAP, stats.swap.map_or(0, |swap| swap.usage));
    let detail: MemoryDetail = cgroup.memory_detail().ok().flatten().unwrap_or_default();
    out.set(&f::MEMORY_CACHE, detail.cache);
    out.set(&f::MEMORY_MAPPED, detail.mapped_file);
    out.set(&f::MEMORY_KERNEL, detail.kernel);
    out.set(&f::MEMORY_ACTIVE_FILE, detail.active_file);
    out.set(&f::MEMORY_INACTIVE_FILE, detail.inactive_file);
    // Where the kernel does not remember it, it was at least what it is now.
    out.set(&f::MEMORY_MAX, detail.peak.unwrap_or(memory.usage));
    out.set(&f::MEMORY_FAILCNT, detail.limit_hits);
    let (all, major) = (memory.page_faults, memory.major_page_faults);
    let own = detail.own_page_faults.unwrap_or(all);
    let own_major = detail.own_major_page_faults.unwrap_or(major);
    out.put(&f::MEMORY_FAILURES, &["pgfault", "container"], own);
    out.put(&f::MEMORY_FAILURES, &["pgmajfault", "container"], own_major);
    out.put(&f::MEMORY_FAILURES, &["pgfault", "hierarchy"], all);
    out.put(&f::MEMORY_FAILURES, &["pgmajfault", "hierarchy"], major);
    out.set(&f::OOM_EVENTS, cgroup.oom_kills().unwrap_or(0));
}

fn disk(io: &DeviceIo, device: &str, out: &mut Writer) {
    out.put(&f::FS_READS, &[device], io.reads);
    out.put(&f::FS_READS_BYTES, &[device], io.read_bytes);
    out.put(&f::FS_WRITES, &[device], io.writes);
    out.put(&f::FS_WRITES_BYTES, &[device], io.written_bytes);
    let (major, minor) = (io.major.to_string(), io.minor.to_string());
    out.put(&f::BLKIO, &[device, &major, &minor, "read"], io.read_bytes);
    out.put(&f::BLKIO, &[device, &major, &minor, "write"], io.written_bytes);
}

fn pressure(all: &Pressures, out: &mut Writer) {
    let seconds = |us: u64| Duration::from_micros(us).as_secs();
    out.set(&f::PRESSURE_CPU_WAITING, seconds(all.cpu.some.total_us));
    out.set(&f::PRESSURE_CPU_STALLED, seconds(all.cpu.full.total_us));
    out.set(&f::PRESSURE_MEMORY_WAITING, seconds(all.memory.some.total_us));
    out.set(&f::PRESSURE_MEMORY_STALLED, seconds(all.memory.full.total_us));
    out.set(&f::PRESSURE_IO_WAITING, seconds(all.io.some.total_us));
    out.set(&f::PRESSURE_IO_STALLED, seconds(all.io.full.total_us));
}

/// Processes and threads.
fn population(pids: &[i32], stats: &Stats, out: &mut Writer) {
    let threads = || processes::threads(Path::new(PROC), pids.iter().copied());
    let count = u64::try_from(pids.len()).unwrap_or(u64::MAX);
    out.set(&f::PROCESSES, count);
    // Without the pids controller nobody counts threads.
    let counted = stats.pids.map(|pids| pids.current);
    out.set(&f::THREADS, counted.unwrap_or_else(threads));
    out.set(&f::THREADS_MAX, stats.pids.and_then(|pids| pids.limit).unwrap_or(0));
}

fn seconds_of_ns(ns: u64) -> u64 {
    Duration::from_nanos(ns).as_secs()
}

/// The soft limits of a container's first process.
pub(super) fn limits(pid: u32, out: &mut Writer) {
    if let Some(limit) = processes::open_files_limit(Path::new(PROC), pid) {
        out.put(&f::ULIMITS_SOFT, &["max_open_files"], limit);
    }
}

/// What is known of a container that no cgroup counts.
pub(super) fn guest(usage: &berth_cgroup::Usage, out: &mut Writer) {
    if let Some(ns) = usage.cpu_ns {
        out.put(&f::CPU_USAGE, &["total"], seconds_of_ns(ns));
    }
    if let Some(memory) = usage.memory {
        out.set(&f::MEMORY_USAGE, memory.usage);
        out.set(&f::MEMORY_WORKING_SET, memory.working_set);
        out.set(&f::MEMORY_RSS, memory.rss);
    }
}

#[cfg(test)]
mod tests;
