//! The payload of Task.Stats: what the kernel counts for a cgroup, in the shape that containerd's
//! readers expect, which differs between v1 and v2.

use std::collections::HashMap;

use berth_process::{Figures, Pressure, Stall, Version};
use berth_proto::{cgroups_v1 as v1, cgroups_v2 as v2};
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;

use crate::messages::pack;

/// No limit, as the kernel writes it on v1: the largest number of pages.
const UNLIMITED_V1: u64 = 0x7fff_ffff_ffff_f000;
/// No limit, as containerd's readers expect it on v2.
const UNLIMITED_V2: u64 = u64::MAX;

/// Figures, ready for the wire.
#[derive(Clone, Debug)]
pub struct Metrics(Any);

impl Metrics {
    /// The figures of a cgroup.
    pub fn of(figures: &Figures) -> Self {
        Self(match figures.version {
            Version::V1 => pack("io.containerd.cgroups.v1.Metrics", &metrics_v1(figures)),
            Version::V2 => pack("io.containerd.cgroups.v2.Metrics", &metrics_v2(figures)),
        })
    }

    /// Figures that a runtime has encoded itself.
    pub fn encoded(type_url: &str, value: Vec<u8>) -> Self {
        Self(Any { type_url: type_url.to_owned(), value, ..Any::default() })
    }

    pub(crate) fn into_any(self) -> Any {
        self.0
    }
}

fn metrics_v1(figures: &Figures) -> v1::Metrics {
    let stats = &figures.stats;
    v1::Metrics {
        pids: field(stats.pids.map(|pids| v1::PidsStat {
            current: pids.current,
            limit: pids.limit.unwrap_or(0),
            ..Default::default()
        })),
        cpu: field(stats.cpu.map(|cpu| v1::CPUStat {
            usage: MessageField::some(v1::CPUUsage {
                total: cpu.usage_ns,
                kernel: cpu.system_ns,
                user: cpu.user_ns,
                ..Default::default()
            }),
            throttling: field(figures.throttling.map(|throttling| v1::Throttle {
                periods: throttling.periods,
                throttled_periods: throttling.throttled_periods,
                throttled_time: throttling.throttled_ns,
                ..Default::default()
            })),
            ..Default::default()
        })),
        memory: field(stats.memory.map(|_| memory_v1(figures))),
        blkio: MessageField::some(io_v1(figures)),
        memory_oom_control: MessageField::some(v1::MemoryOomControl {
            oom_kill: figures.oom_kills,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn memory_v1(figures: &Figures) -> v1::MemoryStat {
    let read = Lines::of(figures);
    let memory = figures.stats.memory.unwrap_or_default();
    let entry = |usage, limit: Option<u64>| {
        let limit = limit.unwrap_or(UNLIMITED_V1);
        MessageField::some(v1::MemoryEntry { usage, limit, ..Default::default() })
    };
    v1::MemoryStat {
        cache: read.line("cache"),
        rss: read.line("rss"),
        rss_huge: read.line("rss_huge"),
        mapped_file: read.line("mapped_file"),
        dirty: read.line("dirty"),
        writeback: read.line("writeback"),
        pg_fault: read.line("pgfault"),
        pg_maj_fault: read.line("pgmajfault"),
        inactive_anon: read.line("inactive_anon"),
        active_anon: read.line("active_anon"),
        inactive_file: read.line("inactive_file"),
        active_file: read.line("active_file"),
        unevictable: read.line("unevictable"),
        hierarchical_memory_limit: read.line("hierarchical_memory_limit"),
        hierarchical_swap_limit: read.line("hierarchical_memsw_limit"),
        total_cache: read.line("total_cache"),
        total_rss: read.line("total_rss"),
        total_rss_huge: read.line("total_rss_huge"),
        total_mapped_file: read.line("total_mapped_file"),
        total_dirty: read.line("total_dirty"),
        total_writeback: read.line("total_writeback"),
        total_pg_fault: read.line("total_pgfault"),
        total_pg_maj_fault: read.line("total_pgmajfault"),
        total_inactive_anon: read.line("total_inactive_anon"),
        total_active_anon: read.line("total_active_anon"),
        total_inactive_file: read.line("total_inactive_file"),
        total_active_file: read.line("total_active_file"),
        total_unevictable: read.line("total_unevictable"),
        usage: entry(memory.usage, memory.limit),
        // v1 counts memory and swap together.
        swap: field(figures.stats.swap.map(|swap| v1::MemoryEntry {
            usage: memory.usage + swap.usage,
            limit: memory.limit.zip(swap.limit).map_or(UNLIMITED_V1, |(a, b)| a + b),
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn io_v1(figures: &Figures) -> v1::BlkIOStat {
    let entries = |pick: fn(&berth_process::DeviceIo) -> (u64, u64)| {
        let both = figures.io.iter().flat_map(move |io| {
            let (read, write) = pick(io);
            let entry = |op: &str, value| v1::BlkIOEntry {
                op: op.to_owned(),
                device: String::new(),
                major: io.major.into(),
                minor: io.minor.into(),
                value,
                ..Default::default()
            };
            [entry("Read", read), entry("Write", write)]
        });
        both.collect()
    };
    v1::BlkIOStat {
        io_service_bytes_recursive: entries(|io| (io.read_bytes, io.written_bytes)),
        io_serviced_recursive: entries(|io| (io.reads, io.writes)),
        ..Default::default()
    }
}

fn metrics_v2(figures: &Figures) -> v2::Metrics {
    let stats = &figures.stats;
    let pressure = |pick: fn(&berth_process::Pressures) -> Pressure| {
        field(figures.pressures.as_ref().map(|all| psi(&pick(all))))
    };
    v2::Metrics {
        pids: field(stats.pids.map(|pids| v2::PidsStat {
            current: pids.current,
            limit: pids.limit.unwrap_or(0),
            ..Default::default()
        })),
        cpu: field(stats.cpu.map(|cpu| {
            let throttling = figures.throttling.unwrap_or_default();
            v2::CPUStat {
                usage_usec: cpu.usage_ns / 1000,
                user_usec: cpu.user_ns / 1000,
                system_usec: cpu.system_ns / 1000,
                nr_periods: throttling.periods,
                nr_throttled: throttling.throttled_periods,
                throttled_usec: throttling.throttled_ns / 1000,
                psi: pressure(|all| all.cpu),
                ..Default::default()
            }
        })),
        memory: field(
            stats
                .memory
                .map(|_| v2::MemoryStat { psi: pressure(|all| all.memory), ..memory_v2(figures) }),
        ),
        io: MessageField::some(v2::IOStat {
            usage: figures.io.iter().map(io_v2).collect(),
            psi: pressure(|all| all.io),
            ..Default::default()
        }),
        memory_events: MessageField::some(v2::MemoryEvents {
            oom_kill: figures.oom_kills,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn memory_v2(figures: &Figures) -> v2::MemoryStat {
    let read = Lines::of(figures);
    let memory = figures.stats.memory.unwrap_or_default();
    let swap = figures.stats.swap.unwrap_or_default();
    v2::MemoryStat {
        anon: read.line("anon"),
        file: read.line("file"),
        kernel_stack: read.line("kernel_stack"),
        slab: read.line("slab"),
        sock: read.line("sock"),
        shmem: read.line("shmem"),
        file_mapped: read.line("file_mapped"),
        file_dirty: read.line("file_dirty"),
        file_writeback: read.line("file_writeback"),
        anon_thp: read.line("anon_thp"),
        inactive_anon: read.line("inactive_anon"),
        active_anon: read.line("active_anon"),
        inactive_file: read.line("inactive_file"),
        active_file: read.line("active_file"),
        unevictable: read.line("unevictable"),
        slab_reclaimable: read.line("slab_reclaimable"),
        slab_unreclaimable: read.line("slab_unreclaimable"),
        pgfault: read.line("pgfault"),
        pgmajfault: read.line("pgmajfault"),
        pgrefill: read.line("pgrefill"),
        pgscan: read.line("pgscan"),
        pgsteal: read.line("pgsteal"),
        pgactivate: read.line("pgactivate"),
        pgdeactivate: read.line("pgdeactivate"),
        pglazyfree: read.line("pglazyfree"),
        pglazyfreed: read.line("pglazyfreed"),
        thp_fault_alloc: read.line("thp_fault_alloc"),
        thp_collapse_alloc: read.line("thp_collapse_alloc"),
        usage: memory.usage,
        usage_limit: memory.limit.unwrap_or(UNLIMITED_V2),
        swap_usage: swap.usage,
        swap_limit: swap.limit.unwrap_or(UNLIMITED_V2),
        ..Default::default()
    }
}

fn io_v2(io: &berth_process::DeviceIo) -> v2::IOEntry {
    v2::IOEntry {
        major: io.major.into(),
        minor: io.minor.into(),
        rbytes: io.read_bytes,
        wbytes: io.written_bytes,
        rios: io.reads,
        wios: io.writes,
        ..Default::default()
    }
}

fn psi(pressure: &Pressure) -> v2::PSIStats {
    let data = |stall: &Stall| {
        MessageField::some(v2::PSIData {
            avg10: stall.avg10,
            avg60: stall.avg60,
            avg300: stall.avg300,
            total: stall.total_us,
            ..Default::default()
        })
    };
    v2::PSIStats { some: data(&pressure.some), full: data(&pressure.full), ..Default::default() }
}

fn field<T>(value: Option<T>) -> MessageField<T> {
    MessageField::from_option(value)
}

/// The lines of `memory.stat`.
struct Lines<'a>(HashMap<&'a str, u64>);

impl<'a> Lines<'a> {
    fn of(figures: &'a Figures) -> Self {
        Self(figures.memory.iter().map(|(name, value)| (name.as_str(), *value)).collect())
    }

    fn line(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }
}
