//! The series: their names, what they mean, and the labels beside those that all have.

use berth_proto::cri::v1 as cri;

/// The labels that every series has, in this order: those of cAdvisor.
pub(super) const BASE: [&str; 6] = ["id", "name", "image", "namespace", "pod", "container"];

/// Series of one name.
pub(super) struct Family {
    pub(super) name: &'static str,
    help: &'static str,
    /// Labels after the common ones.
    pub(super) labels: &'static [&'static str],
    pub(super) kind: cri::MetricType,
}

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Family {
    Family { name, help, labels, kind: cri::MetricType::Counter }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, help, labels, kind: cri::MetricType::Gauge }
}

/// Defines each family as a constant, and the table of all.
macro_rules! families {
    ($($name:ident = $family:expr;)*) => {
        $(pub(super) const $name: Family = $family;)*
        const ALL: &[Family] = &[$($name),*];
    };
}

families! {
    // Processor.
    CPU_USAGE = counter(
        "container_cpu_usage_seconds_total",
        &["cpu"],
        "Processor time used, in seconds.",
    );
    CPU_USER = counter(
        "container_cpu_user_seconds_total",
        &[],
        "Processor time used in user mode, in seconds.",
    );
    CPU_SYSTEM = counter(
        "container_cpu_system_seconds_total",
        &[],
        "Processor time used in the kernel, in seconds.",
    );
    CFS_PERIODS = counter(
        "container_cpu_cfs_periods_total",
        &[],
        "Periods of the processor quota that it ran in.",
    );
    CFS_THROTTLED_PERIODS = counter(
        "container_cpu_cfs_throttled_periods_total",
        &[],
        "Periods in which the processor quota held it back.",
    );
    CFS_THROTTLED = counter(
        "container_cpu_cfs_throttled_seconds_total",
        &[],
        "Time for which the processor quota held it back, in seconds.",
    );
    // Memory.
    MEMORY_USAGE = gauge(
        "container_memory_usage_bytes",
        &[],
        "Memory in use, the page cache included, in bytes.",
    );
    MEMORY_WORKING_SET = gauge(
        "container_memory_working_set_bytes",
        &[],
        "Memory in use without inactive file pages, in bytes.",
    );
    MEMORY_RSS = gauge(
        "container_memory_rss",
        &[],
        "Anonymous memory in use, in bytes.",
    );
    MEMORY_CACHE = gauge(
        "container_memory_cache",
        &[],
        "Page cache, in bytes.",
    );
    MEMORY_MAPPED = gauge(
        "container_memory_mapped_file",
        &[],
        "Mapped files, in bytes.",
    );
    MEMORY_KERNEL = gauge(
        "container_memory_kernel_usage",
        &[],
        "Memory that the kernel uses for it, in bytes.",
    );
    MEMORY_SWAP = gauge(
        "container_memory_swap",
        &[],
        "Swap in use, in bytes.",
    );
    MEMORY_MAX = gauge(
        "container_memory_max_usage_bytes",
        &[],
        "The most memory that was ever in use, in bytes.",
    );
    MEMORY_FAILCNT = counter(
        "container_memory_failcnt",
        &[],
        "How often the memory limit was hit.",
    );
    MEMORY_FAILURES = counter(
        "container_memory_failures_total",
        &["failure_type", "scope"],
        "Page faults: all, and those with a read from disk.",
    );
    MEMORY_ACTIVE_FILE = gauge(
        "container_memory_total_active_file_bytes",
        &[],
        "File pages in use, in bytes.",
    );
    MEMORY_INACTIVE_FILE = gauge(
        "container_memory_total_inactive_file_bytes",
        &[],
        "File pages that the kernel could drop at once, in bytes.",
    );
    OOM_EVENTS = counter(
        "container_oom_events_total",
        &[],
        "Processes killed for lack of memory.",
    );
    // Huge pages.
    HUGETLB_USAGE = gauge(
        "container_hugetlb_usage_bytes",
        &["pagesize"],
        "Huge pages in use, in bytes.",
    );
    HUGETLB_MAX = gauge(
        "container_hugetlb_max_usage_bytes",
        &["pagesize"],
        "The most huge pages that were ever in use, in bytes.",
    );
    // Disks.
    FS_USAGE = gauge(
        "container_fs_usage_bytes",
        &["device"],
        "Size of the writable layer, in bytes; 0 until it is measured.",
    );
    FS_LIMIT = gauge(
        "container_fs_limit_bytes",
        &["device"],
        "Size of the file system that the writable layer is on, in bytes.",
    );
    FS_INODES_FREE = gauge(
        "container_fs_inodes_free",
        &["device"],
        "Free inodes of the file system that the writable layer is on.",
    );
    FS_INODES_TOTAL = gauge(
        "container_fs_inodes_total",
        &["device"],
        "Inodes of the file system that the writable layer is on.",
    );
    FS_READS = counter(
        "container_fs_reads_total",
        &["device"],
        "Read operations.",
    );
    FS_READS_BYTES = counter(
        "container_fs_reads_bytes_total",
        &["device"],
        "Bytes read.",
    );
    FS_WRITES = counter(
        "container_fs_writes_total",
        &["device"],
        "Write operations.",
    );
    FS_WRITES_BYTES = counter(
        "container_fs_writes_bytes_total",
        &["device"],
        "Bytes written.",
    );
    BLKIO = counter(
        "container_blkio_device_usage_total",
        &["device", "major", "minor", "operation"],
        "Bytes read from and written to a device.",
    );
    // Network, of pods alone.
    RX_BYTES = counter(
        "container_network_receive_bytes_total",
        &["interface"],
        "Bytes received.",
    );
    RX_PACKETS = counter(
        "container_network_receive_packets_total",
        &["interface"],
        "Packets received.",
    );
    RX_ERRORS = counter(
        "container_network_receive_errors_total",
        &["interface"],
        "Errors while receiving.",
    );
    RX_DROPPED = counter(
        "container_network_receive_packets_dropped_total",
        &["interface"],
        "Packets dropped while receiving.",
    );
    TX_BYTES = counter(
        "container_network_transmit_bytes_total",
        &["interface"],
        "Bytes sent.",
    );
    TX_PACKETS = counter(
        "container_network_transmit_packets_total",
        &["interface"],
        "Packets sent.",
    );
    TX_ERRORS = counter(
        "container_network_transmit_errors_total",
        &["interface"],
        "Errors while sending.",
    );
    TX_DROPPED = counter(
        "container_network_transmit_packets_dropped_total",
        &["interface"],
        "Packets dropped while sending.",
    );
    // Processes.
    PROCESSES = gauge(
        "container_processes",
        &[],
        "Processes.",
    );
    THREADS = gauge(
        "container_threads",
        &[],
        "Threads.",
    );
    THREADS_MAX = gauge(
        "container_threads_max",
        &[],
        "The limit of threads; 0: none.",
    );
    FILE_DESCRIPTORS = gauge(
        "container_file_descriptors",
        &[],
        "Open file descriptors.",
    );
    SOCKETS = gauge(
        "container_sockets",
        &[],
        "Open sockets.",
    );
    ULIMITS_SOFT = gauge(
        "container_ulimits_soft",
        &["ulimit"],
        "Soft limits of the first process.",
    );
    // Pressure: the time that work waited (v2).
    PRESSURE_CPU_WAITING = counter(
        "container_pressure_cpu_waiting_seconds_total",
        &[],
        "Time in which some task waited for a processor, in seconds.",
    );
    PRESSURE_CPU_STALLED = counter(
        "container_pressure_cpu_stalled_seconds_total",
        &[],
        "Time in which all tasks waited for a processor, in seconds.",
    );
    PRESSURE_MEMORY_WAITING = counter(
        "container_pressure_memory_waiting_seconds_total",
        &[],
        "Time in which some task waited for memory, in seconds.",
    );
    PRESSURE_MEMORY_STALLED = counter(
        "container_pressure_memory_stalled_seconds_total",
        &[],
        "Time in which all tasks waited for memory, in seconds.",
    );
    PRESSURE_IO_WAITING = counter(
        "container_pressure_io_waiting_seconds_total",
        &[],
        "Time in which some task waited for a disk, in seconds.",
    );
    PRESSURE_IO_STALLED = counter(
        "container_pressure_io_stalled_seconds_total",
        &[],
        "Time in which all tasks waited for a disk, in seconds.",
    );
    // What was asked for.
    SPEC_CPU_PERIOD = gauge(
        "container_spec_cpu_period",
        &[],
        "Period of the processor quota, in microseconds.",
    );
    SPEC_CPU_QUOTA = gauge(
        "container_spec_cpu_quota",
        &[],
        "Processor quota in each period, in microseconds; none: unlimited.",
    );
    SPEC_CPU_SHARES = gauge(
        "container_spec_cpu_shares",
        &[],
        "Processor shares.",
    );
    SPEC_MEMORY_LIMIT = gauge(
        "container_spec_memory_limit_bytes",
        &[],
        "Memory limit, in bytes; 0: none.",
    );
    SPEC_MEMORY_RESERVATION = gauge(
        "container_spec_memory_reservation_limit_bytes",
        &[],
        "Memory that is kept for it, in bytes; 0: none.",
    );
    SPEC_MEMORY_SWAP_LIMIT = gauge(
        "container_spec_memory_swap_limit_bytes",
        &[],
        "Limit of memory and swap together, in bytes; 0: none.",
    );
    // Life.
    START_TIME = gauge(
        "container_start_time_seconds",
        &[],
        "When it was started, in seconds since 1970.",
    );
    LAST_SEEN = gauge(
        "container_last_seen",
        &[],
        "When these figures were read, in seconds since 1970.",
    );
}

/// Every series that there may be, for ListMetricDescriptors.
pub(crate) fn descriptors() -> Vec<cri::MetricDescriptor> {
    let labels = |family: &Family| BASE.iter().chain(family.labels).map(ToString::to_string);
    let one = |family: &Family| cri::MetricDescriptor {
        name: family.name.to_owned(),
        help: family.help.to_owned(),
        label_keys: labels(family).collect(),
    };
    ALL.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_name_is_there_once_says_what_it_is_and_has_its_type_in_its_name() {
        let names: BTreeSet<_> = ALL.iter().map(|family| family.name).collect();
        assert_eq!(names.len(), ALL.len());
        for family in ALL {
            assert!(!family.help.is_empty(), "{}", family.name);
            let name = family.name.trim_end_matches("_inodes_total");
            let total = name.ends_with("_total") || name.ends_with("failcnt");
            assert_eq!(family.kind == cri::MetricType::Counter, total, "{}", family.name);
        }
    }
}
