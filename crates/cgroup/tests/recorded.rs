//! v2 on recorded trees: directories with the files a real v2 machine shows, text and all.
//!
//! This proves what is read and written, not what the kernel makes of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_cgroup::{
    Cgroup, Cgroups, Controller, Error, Extent, HugepageLimit, Resources, Stats, Throttling,
    Version,
};
use berth_sys::Kind;

const LONG: Duration = Duration::from_secs(20);

/// The root of a v2 hierarchy with one container's cgroup in it.
struct Recorded {
    dir: tempfile::TempDir,
}

const NAME: &str = "/kubepods/pod1/c1";

/// As Linux 6.1 shows them for a container with limits.
const FILES: [(&str, &str); 22] = [
    ("cgroup.controllers", "cpuset cpu io memory hugetlb pids\n"),
    ("cgroup.subtree_control", "\n"),
    ("cgroup.procs", ""),
    ("cgroup.events", "populated 0\nfrozen 0\n"),
    ("cgroup.freeze", "0\n"),
    ("cgroup.kill", ""),
    (
        "cpu.stat",
        "usage_usec 1234567\nuser_usec 1000000\nsystem_usec 234567\nnr_periods 10\n\
         nr_throttled 3\nthrottled_usec 4500\nnr_bursts 0\nburst_usec 0\n",
    ),
    ("cpu.max", "50000 100000\n"),
    ("cpu.weight", "100\n"),
    ("cpuset.cpus", "\n"),
    ("cpuset.mems", "\n"),
    ("memory.current", "104857600\n"),
    ("memory.max", "209715200\n"),
    (
        "memory.stat",
        "anon 41943040\nfile 52428800\nkernel 1048576\ninactive_anon 40894464\n\
         active_anon 1048576\ninactive_file 31457280\nactive_file 20971520\npgfault 4321\n\
         pgmajfault 21\n",
    ),
    ("memory.events", "low 0\nhigh 0\nmax 12\noom 2\noom_kill 2\noom_group_kill 0\n"),
    ("memory.swap.current", "1048576\n"),
    ("memory.swap.max", "max\n"),
    ("pids.current", "7\n"),
    ("pids.max", "100\n"),
    ("io.stat", "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n"),
    ("cpu.pressure", "some avg10=1.00 avg60=0.50 avg300=0.10 total=999\n"),
    ("hugetlb.2MB.max", "max\n"),
];

impl Recorded {
    fn new() -> Self {
        let recorded = Self { dir: tempfile::tempdir().unwrap() };
        recorded.level("", "cpuset cpu io memory hugetlb pids rdma misc dmem");
        for (name, text) in FILES {
            let path = recorded.file(NAME, name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        recorded
    }

    /// A cgroup that has these controllers and passes none on.
    fn level(&self, name: &str, controllers: &str) {
        let dir = self.dir.path().join(name.trim_start_matches('/'));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("cgroup.controllers"), format!("{controllers}\n")).unwrap();
        fs::write(dir.join("cgroup.subtree_control"), "\n").unwrap();
    }

    fn file(&self, cgroup: &str, name: &str) -> PathBuf {
        self.dir.path().join(&cgroup[1..]).join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.file(NAME, name)).unwrap()
    }

    fn set(&self, name: &str, text: &str) {
        fs::write(self.file(NAME, name), text).unwrap();
    }

    fn cgroup(&self) -> Cgroup {
        Cgroups::v2_at(self.dir.path()).at(NAME).unwrap()
    }

    fn apply(&self, resources: &Resources) {
        self.cgroup().apply(resources).unwrap();
    }
}

#[test]
fn the_figures_are_those_of_the_files() {
    let recorded = Recorded::new();
    let Stats { cpu, memory, swap, pids, .. } = recorded.cgroup().stats().unwrap();
    let cpu = cpu.unwrap();
    assert_eq!(
        (cpu.usage_ns, cpu.user_ns, cpu.system_ns),
        (1_234_567_000, 1_000_000_000, 234_567_000)
    );
    let memory = memory.unwrap();
    assert_eq!((memory.usage, memory.limit), (100 << 20, Some(200 << 20)));
    assert_eq!(memory.working_set, 70 << 20, "without 30 MB of inactive file pages");
    assert_eq!((memory.rss, memory.page_faults, memory.major_page_faults), (40 << 20, 4321, 21));
    let (swap, pids) = (swap.unwrap(), pids.unwrap());
    assert_eq!((swap.usage, swap.limit), (1 << 20, None));
    assert_eq!((pids.current, pids.limit), (7, Some(100)));
    let throttling = recorded.cgroup().throttling().unwrap().unwrap();
    let expected = Throttling { periods: 10, throttled_periods: 3, throttled_ns: 4_500_000 };
    assert_eq!(throttling, expected);
    assert_eq!(recorded.cgroup().oom_kills().unwrap(), 2);
    assert_eq!(recorded.cgroup().io().unwrap()[0].written_bytes, 8192);
    let pressures = recorded.cgroup().pressures().unwrap().unwrap();
    assert_eq!((pressures.cpu.some.total_us, pressures.memory.some.total_us), (999, 0));
    let stat = recorded.cgroup().memory_stat().unwrap();
    assert!(stat.contains(&("active_file".to_owned(), 20_971_520)));
}

#[test]
fn a_missing_controller_is_no_error_but_a_missing_cgroup_is() {
    let recorded = Recorded::new();
    for name in ["memory.current", "memory.swap.current", "pids.current", "cpu.pressure"] {
        fs::remove_file(recorded.file(NAME, name)).unwrap();
    }
    recorded.set("cpu.stat", "usage_usec 5\nuser_usec 5\nsystem_usec 0\n");
    let stats = recorded.cgroup().stats().unwrap();
    assert_eq!((stats.memory, stats.swap, stats.pids), (None, None, None));
    assert_eq!(recorded.cgroup().throttling().unwrap(), None);
    assert_eq!(recorded.cgroup().pressures().unwrap(), None);
    let absent = Cgroups::v2_at(recorded.dir.path()).at("/absent").unwrap();
    assert_eq!(absent.stats().unwrap_err().kind(), Kind::NotFound);
    assert!(!absent.exists());
    assert_eq!(absent.kill(LONG).unwrap(), []);
    absent.remove(LONG).unwrap();
}

#[test]
fn limits_become_the_values_of_v2() {
    let recorded = Recorded::new();
    recorded.apply(&Resources {
        cpu_shares: Some(1024),
        cpu_quota: Some(20_000),
        cpu_period: Some(50_000),
        cpuset_cpus: Some("0-1".into()),
        cpuset_mems: Some("0".into()),
        memory_limit: Some(100),
        memory_swap_limit: Some(150),
        pids_limit: Some(42),
        hugepages: vec![HugepageLimit { page_size: "2MB".into(), limit: 4 << 20 }],
        unified: BTreeMap::from([("memory.stat".into(), "touched".into())]),
    });
    for (name, text) in [
        ("cpu.weight", "100\n"),
        ("cpu.max", "20000 50000\n"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0\n"),
        ("memory.swap.max", "50\n"),
        ("pids.max", "42\n"),
        ("hugetlb.2MB.max", "4194304"),
    ] {
        // A recorded file keeps what a shorter value does not overwrite; the kernel's do not.
        assert!(recorded.text(name).starts_with(text.trim()), "{name}: {}", recorded.text(name));
    }
    assert!(recorded.text("memory.max").starts_with("100"));
    assert!(recorded.text("memory.stat").starts_with("touched"));
}

#[test]
fn what_is_not_given_stays() {
    let recorded = Recorded::new();
    let before: Vec<_> = FILES.iter().map(|(name, _)| recorded.text(name)).collect();
    recorded.apply(&Resources { cpu_shares: Some(0), ..Resources::default() });
    let after: Vec<_> = FILES.iter().map(|(name, _)| recorded.text(name)).collect();
    assert_eq!(before, after);
    // The quota alone keeps the period, and the period alone the quota.
    recorded.set("cpu.max", "");
    recorded.apply(&Resources { cpu_quota: Some(-1), ..Resources::default() });
    assert_eq!(recorded.text("cpu.max"), "max");
    recorded.set("cpu.max", "777 100000");
    recorded.apply(&Resources { cpu_period: Some(200_000), ..Resources::default() });
    assert_eq!(recorded.text("cpu.max"), "777 200000");
    // The swap limit alone counts from the memory limit there is.
    recorded.set("memory.swap.max", "");
    let both = Resources { memory_swap_limit: Some(300 << 20), ..Resources::default() };
    recorded.apply(&both);
    assert_eq!(recorded.text("memory.swap.max"), (100 << 20).to_string());
}

#[test]
fn unlimited_is_max() {
    let recorded = Recorded::new();
    for name in ["memory.max", "memory.swap.max", "pids.max"] {
        recorded.set(name, "");
    }
    recorded.apply(&Resources {
        memory_limit: Some(-1),
        memory_swap_limit: Some(-1),
        pids_limit: Some(0),
        ..Resources::default()
    });
    for name in ["memory.max", "memory.swap.max", "pids.max"] {
        assert_eq!(recorded.text(name), "max", "{name}");
    }
}

#[test]
fn swap_below_memory_and_foreign_files_are_refused() {
    let recorded = Recorded::new();
    let below =
        Resources { memory_limit: Some(200), memory_swap_limit: Some(100), ..Resources::default() };
    assert!(matches!(recorded.cgroup().apply(&below), Err(Error::Unsupported { .. })));
    for name in ["../memory.max", "cgroup.procs", "cgroup.kill", "noDot", "a/b.c"] {
        let unified = BTreeMap::from([(name.to_owned(), "1".to_owned())]);
        let resources = Resources { unified, ..Resources::default() };
        assert!(matches!(recorded.cgroup().apply(&resources), Err(Error::Path { .. })), "{name}");
    }
    // Without swap accounting there is no such file, and nothing to limit.
    fs::remove_file(recorded.file(NAME, "memory.swap.max")).unwrap();
    recorded.apply(&Resources { memory_swap_limit: Some(-1), ..Resources::default() });
}

#[test]
fn controllers_are_passed_on_at_every_level_above() {
    let recorded = Recorded::new();
    recorded.level("/own", "cpu memory pids");
    recorded.level("/own/below", "cpu memory pids");
    let cgroups = Cgroups::v2_at(recorded.dir.path());
    assert_eq!(cgroups.version(), Version::V2);
    assert!(cgroups.controllers().contains(&Controller::Memory));
    cgroups.at("/own/below/leaf").unwrap().create(Extent::All).unwrap();
    assert!(recorded.dir.path().join("own/below/leaf").is_dir());
    let passed = |dir: &Path| fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap();
    // Each write of a recorded file overwrites the last: the last controller shows.
    assert!(passed(recorded.dir.path()).starts_with("+misc"), "and never the unknown dmem");
    assert!(passed(&recorded.dir.path().join("own")).starts_with("+pids"));
    assert!(passed(&recorded.dir.path().join("own/below")).starts_with("+pids"));
    let leaf = recorded.dir.path().join("own/below/leaf");
    assert!(!leaf.join("cgroup.subtree_control").exists(), "nothing is passed on by the leaf");
    // Nothing is written again for what is passed on already.
    fs::write(recorded.file("/own", "cgroup.subtree_control"), "cpu memory pids\n").unwrap();
    cgroups.at("/own/below").unwrap().create(Extent::All).unwrap();
    assert_eq!(passed(&recorded.dir.path().join("own")), "cpu memory pids\n");
}

#[test]
fn the_enter_file_is_cgroup_procs() {
    let recorded = Recorded::new();
    assert_eq!(recorded.cgroup().enter_files(), [recorded.file(NAME, "cgroup.procs")]);
    assert!(recorded.cgroup().child("absent").unwrap().enter_files().is_empty());
}

#[test]
fn kill_writes_the_kernels_own_file_and_waits_for_emptiness() {
    let recorded = Recorded::new();
    assert_eq!(recorded.cgroup().kill(LONG).unwrap(), []);
    assert_eq!(recorded.text("cgroup.kill"), "1");
    // Not empty in time: who remains is read from the members (here: this shell's process).
    recorded.set("cgroup.events", "populated 1\nfrozen 0\n");
    let mut child = berth_sys::spawn::Spawn::new("/bin/sleep").arg("1000").spawn().unwrap();
    recorded.set("cgroup.procs", &format!("{}\n", child.pid().as_raw_pid()));
    let left = recorded.cgroup().kill(Duration::from_millis(20)).unwrap();
    assert_eq!((left.len(), left[0].name.as_str()), (1, "sleep"));
    assert!(matches!(left[0].state, 'S' | 'R' | 'D'));
    // Before Linux 5.14 there is no such file: one by one.
    fs::remove_file(recorded.file(NAME, "cgroup.kill")).unwrap();
    recorded.cgroup().kill(Duration::from_millis(100)).unwrap();
    let exit = child.wait(LONG).unwrap();
    assert_eq!(exit, Some(berth_sys::spawn::Exit::Signal(berth_sys::Signal::KILL)));
}

#[test]
fn freezing_waits_for_the_event() {
    let recorded = Recorded::new();
    assert!(!recorded.cgroup().freeze(Duration::from_millis(20)).unwrap());
    recorded.set("cgroup.events", "populated 1\nfrozen 1\n");
    assert!(recorded.cgroup().freeze(LONG).unwrap());
    assert!(recorded.text("cgroup.freeze").starts_with('1'));
    recorded.cgroup().thaw().unwrap();
    assert!(recorded.text("cgroup.freeze").starts_with('0'));
}

#[test]
fn a_file_that_does_not_read_as_documented_is_named() {
    let recorded = Recorded::new();
    recorded.set("memory.current", "lots\n");
    let error = recorded.cgroup().stats().unwrap_err();
    assert_eq!(error.kind(), Kind::Broken);
    assert!(error.to_string().contains("memory.current") && error.to_string().contains("lots"));
}

#[test]
fn the_oom_watch_wakes_when_the_events_change() {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let recorded = Recorded::new();
    let watch = recorded.cgroup().oom_watch().unwrap();
    let ready = |seconds| {
        let limit = Timespec { tv_sec: seconds, tv_nsec: 0 };
        poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&limit)).unwrap() == 1
    };
    assert!(!ready(0));
    recorded.set("memory.events", "oom_kill 3\n");
    assert!(ready(20));
    watch.clear();
    assert!(!ready(0));
}
