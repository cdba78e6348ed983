use std::collections::BTreeMap;
use std::fs;

use berth_cgroup::Cgroups;

use super::*;

/// A recorded cgroup of v2, as a busy container on Linux 6.12 has it.
const RECORDED: &[(&str, &str)] = &[
    (
        "cpu.stat",
        "usage_usec 12500000\nuser_usec 9300000\nsystem_usec 3200000\nnr_periods 70\n\
         nr_throttled 21\nthrottled_usec 4100000\n",
    ),
    ("memory.current", "73400320\n"),
    ("memory.max", "134217728\n"),
    ("memory.peak", "99614720\n"),
    ("memory.swap.current", "4096\n"),
    ("memory.swap.max", "max\n"),
    ("memory.events", "low 0\nhigh 0\nmax 17\noom 3\noom_kill 2\n"),
    (
        "memory.stat",
        "anon 41943040\nfile 20971520\nkernel 3145728\nfile_mapped 8388608\n\
         inactive_file 10485760\nactive_file 6291456\npgfault 5000\npgmajfault 12\n",
    ),
    ("pids.current", "9\n"),
    ("pids.max", "1024\n"),
    ("cgroup.procs", ""),
    ("hugetlb.2MB.current", "4194304\n"),
    ("io.stat", "0:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n"),
    (
        "cpu.pressure",
        "some avg10=1.5 avg60=0 avg300=0 total=7900000\nfull avg10=0 avg60=0 avg300=0 total=2100000\n",
    ),
    (
        "memory.pressure",
        "some avg10=0 avg60=0 avg300=0 total=1000000\nfull avg10=0 avg60=0 avg300=0 total=999999\n",
    ),
    (
        "io.pressure",
        "some avg10=0 avg60=0 avg300=0 total=3000001\nfull avg10=0 avg60=0 avg300=0 total=2000000\n",
    ),
];

/// The series of a cgroup with these files: values by name and own labels.
fn series(files: &[(&str, &str)]) -> BTreeMap<String, u64> {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("pod");
    fs::create_dir(&directory).unwrap();
    for (name, text) in files {
        fs::write(directory.join(name), text).unwrap();
    }
    let cgroup = Cgroups::v2_at(root.path()).at("/pod").unwrap();
    let mut out = Writer::new(1, Default::default());
    let mut reader = Reader {
        devices: Devices::default(),
        hugepages: vec!["2MB".to_owned()],
        open: Open::default(),
    };
    reader.read(&cgroup, Of::Container, &mut out);
    let own = |metric: &berth_proto::cri::v1::Metric| {
        let labels = &metric.label_values[f::BASE.len()..];
        let name = metric.name.trim_start_matches("container_");
        if labels.is_empty() { name.to_owned() } else { format!("{name} {}", labels.join(" ")) }
    };
    out.done().iter().map(|metric| (own(metric), metric.value.unwrap().value)).collect()
}

#[test]
fn every_figure_of_a_recorded_cgroup_has_its_series() {
    let series = series(RECORDED);
    let expected = [
        ("cpu_usage_seconds_total total", 12),
        ("cpu_user_seconds_total", 9),
        ("cpu_system_seconds_total", 3),
        ("cpu_cfs_periods_total", 70),
        ("cpu_cfs_throttled_periods_total", 21),
        ("cpu_cfs_throttled_seconds_total", 4),
        ("memory_usage_bytes", 73_400_320),
        ("memory_working_set_bytes", 73_400_320 - 10_485_760),
        ("memory_rss", 41_943_040),
        ("memory_cache", 20_971_520),
        ("memory_mapped_file", 8_388_608),
        ("memory_kernel_usage", 3_145_728),
        ("memory_total_active_file_bytes", 6_291_456),
        ("memory_total_inactive_file_bytes", 10_485_760),
        ("memory_max_usage_bytes", 99_614_720),
        ("memory_swap", 4096),
        ("memory_failcnt", 17),
        ("memory_failures_total pgfault container", 5000),
        ("memory_failures_total pgfault hierarchy", 5000),
        ("memory_failures_total pgmajfault container", 12),
        ("memory_failures_total pgmajfault hierarchy", 12),
        ("oom_events_total", 2),
        ("hugetlb_usage_bytes 2MB", 4_194_304),
        ("fs_reads_total 0:0", 1),
        ("fs_reads_bytes_total 0:0", 4096),
        ("fs_writes_total 0:0", 2),
        ("fs_writes_bytes_total 0:0", 8192),
        ("blkio_device_usage_total 0:0 0 0 read", 4096),
        ("blkio_device_usage_total 0:0 0 0 write", 8192),
        ("pressure_cpu_waiting_seconds_total", 7),
        ("pressure_cpu_stalled_seconds_total", 2),
        ("pressure_memory_waiting_seconds_total", 1),
        ("pressure_memory_stalled_seconds_total", 0),
        ("pressure_io_waiting_seconds_total", 3),
        ("pressure_io_stalled_seconds_total", 2),
        ("processes", 0),
        ("threads", 9),
        ("threads_max", 1024),
        ("file_descriptors", 0),
        ("sockets", 0),
    ];
    let expected: BTreeMap<_, _> = expected.map(|(name, value)| (name.to_owned(), value)).into();
    assert_eq!(series, expected);
}

#[test]
fn without_pressure_and_peaks_the_others_are_still_told_and_what_is_gone_has_none() {
    let older = |(name, _): &&(&str, &str)| !name.ends_with("pressure") && *name != "memory.peak";
    let older: Vec<_> = RECORDED.iter().filter(older).copied().collect();
    let told = series(&older);
    assert_eq!(told["memory_max_usage_bytes"], 73_400_320);
    assert!(!told.keys().any(|name| name.starts_with("pressure")));
    assert_eq!(told["threads"], 9);
    assert_eq!(series(&[]), BTreeMap::new());
}
