use super::*;
use berth_nri::api::{
    LinuxCpu, LinuxDeviceCgroup, LinuxIoPriority, LinuxMemory, LinuxPids, OptionalBool,
    OptionalFileMode, OptionalInt, OptionalInt64, OptionalString, OptionalUInt64,
};
use berth_oci::CapabilitySet;
use berth_oci::facts::{AppArmor, Arch, CgroupDriver};

fn node(cgroup_version: CgroupVersion) -> NodeFacts {
    NodeFacts {
        capabilities: CapabilitySet::default(),
        cgroup_version,
        cgroup_driver: CgroupDriver::Cgroupfs,
        swap_limit: true,
        hugetlb: true,
        pids_limit: None,
        arch: Arch::Amd64,
        kernel: (6, 1),
        recursive_read_only: true,
        seccomp: true,
        apparmor: AppArmor::Off,
        selinux: false,
        devices: Vec::new(),
        oom_floor: None,
        rlimits: Vec::new(),
    }
}

const ALL: Extras = Extras { scheduling: true, rdt: true, net_devices: true, memory_policy: true };

fn applied(
    linux: LinuxContainerAdjustment,
    version: CgroupVersion,
    extras: Extras,
) -> Result<Spec> {
    let mut spec = Spec::default();
    let adjust = ContainerAdjustment { linux: Some(linux), ..Default::default() };
    let node = node(version);
    apply(&mut spec, adjust, Able { node: &node, extras }).map(|()| spec)
}

#[test]
fn what_only_some_runtimes_can_do_is_written_for_those() {
    let all = || LinuxContainerAdjustment {
        io_priority: Some(LinuxIoPriority { class: 3, priority: 7 }),
        scheduler: Some(LinuxScheduler {
            policy: 4,
            nice: 5,
            flags: vec![0],
            ..Default::default()
        }),
        net_devices: [("eth9".to_owned(), berth_nri::api::LinuxNetDevice { name: "in".into() })]
            .into(),
        memory_policy: Some(berth_nri::api::LinuxMemoryPolicy {
            mode: 2,
            nodes: "0-1".into(),
            flags: vec![0],
        }),
        rdt: Some(LinuxRdt {
            clos_id: Some(OptionalString { value: "gold".into() }),
            enable_monitoring: Some(OptionalBool { value: true }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let json = serde_json::to_value(applied(all(), CgroupVersion::V2, ALL).unwrap()).unwrap();
    let io = serde_json::json!({"class": "IOPRIO_CLASS_IDLE", "priority": 7});
    assert_eq!(json["process"]["ioPriority"], io);
    assert_eq!(json["process"]["scheduler"]["policy"], "SCHED_BATCH");
    assert_eq!(json["process"]["scheduler"]["flags"][0], "SCHED_FLAG_RESET_ON_FORK");
    assert_eq!(json["linux"]["netDevices"]["eth9"]["name"], "in");
    assert_eq!(json["linux"]["memoryPolicy"]["mode"], "MPOL_BIND");
    assert_eq!(json["linux"]["memoryPolicy"]["flags"][0], "MPOL_F_STATIC_NODES");
    let rdt = serde_json::json!({"closID": "gold", "enableMonitoring": true});
    assert_eq!(json["linux"]["intelRdt"], rdt);
    let why = applied(all(), CgroupVersion::V2, Extras::default()).unwrap_err();
    assert_eq!(why.kind, Kind::Unimplemented);
}

#[test]
fn limits_that_only_cgroup_v1_has_are_refused_on_v2() {
    let swappiness = || {
        let swappiness = Some(OptionalUInt64 { value: 10 });
        let memory = Some(LinuxMemory { swappiness, ..Default::default() });
        let resources = Some(LinuxResources { memory, ..Default::default() });
        LinuxContainerAdjustment { resources, ..Default::default() }
    };
    let spec = applied(swappiness(), CgroupVersion::V1, ALL).unwrap();
    assert_eq!(spec.linux.resources.memory.swappiness, Some(10));
    let why = applied(swappiness(), CgroupVersion::V2, ALL).unwrap_err();
    assert!(why.message.contains("linux.resources.memory.swappiness"), "{}", why.message);
    let cpu = LinuxCpu { realtime_runtime: Some(OptionalInt64 { value: 1 }), ..Default::default() };
    let resources = Some(LinuxResources { cpu: Some(cpu), ..Default::default() });
    let realtime = LinuxContainerAdjustment { resources, ..Default::default() };
    assert_eq!(applied(realtime, CgroupVersion::V2, ALL).unwrap_err().kind, Kind::Unimplemented);
}

#[test]
fn devices_are_allowed_as_their_modes_say() {
    let device = |mode| LinuxDevice {
        path: "/dev/x".into(),
        r#type: "c".into(),
        major: 1,
        minor: 2,
        file_mode: mode,
        ..Default::default()
    };
    for (mode, access) in [(None, "rwm"), (Some(0o400), "rm"), (Some(0o022), "wm")] {
        let mode = mode.map(|value| OptionalFileMode { value });
        let devices = vec![device(mode)];
        let linux = LinuxContainerAdjustment { devices, ..Default::default() };
        let spec = applied(linux, CgroupVersion::V1, ALL).unwrap();
        assert_eq!(spec.linux.resources.devices[0].access, access);
    }
    let pids = Some(LinuxPids { limit: 5 });
    let rule = LinuxDeviceCgroup { allow: false, access: "rwm".into(), ..Default::default() };
    let resources = Some(LinuxResources { pids, devices: vec![rule], ..Default::default() });
    let oom_score_adj = Some(OptionalInt { value: 12 });
    let linux = LinuxContainerAdjustment { resources, oom_score_adj, ..Default::default() };
    let spec = applied(linux, CgroupVersion::V2, ALL).unwrap();
    assert_eq!(spec.linux.resources.pids, Some(spec::LinuxPids { limit: 5 }));
    assert_eq!(spec.linux.resources.devices[0].kind, Some(spec::DeviceKind::All));
    assert_eq!(spec.process.unwrap().oom_score_adj, Some(12));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut all = vec![
        ContainerAdjustment {
            env: vec![KeyValue { key: "A=B".into(), value: String::new() }],
            ..Default::default()
        },
        ContainerAdjustment {
            rlimits: vec![PosixRlimit { r#type: "RLIMIT_CPU".into(), hard: 1, soft: 2 }],
            ..Default::default()
        },
        ContainerAdjustment {
            mounts: vec![Mount { destination: "here".into(), ..Default::default() }],
            ..Default::default()
        },
    ];
    let namespaces = vec![LinuxNamespace { r#type: "time".into(), path: String::new() }];
    let devices =
        vec![LinuxDevice { path: "/dev/x".into(), r#type: "z".into(), ..Default::default() }];
    all.extend(
        [
            LinuxContainerAdjustment { namespaces, ..Default::default() },
            LinuxContainerAdjustment { devices, ..Default::default() },
        ]
        .map(|linux| ContainerAdjustment { linux: Some(linux), ..Default::default() }),
    );
    let node = node(CgroupVersion::V2);
    for adjust in all {
        let shown = format!("{adjust:?}");
        let done = apply(&mut Spec::default(), adjust, Able { node: &node, extras: ALL });
        assert_eq!(done.map_err(|why| why.kind), Err(Kind::Invalid), "{shown}");
    }
}

#[test]
fn a_mount_takes_the_place_of_the_one_before_and_deep_ones_come_last() {
    let old =
        |destination: &str| spec::Mount { destination: destination.into(), ..Default::default() };
    let mut spec =
        Spec { mounts: ["/proc", "/a/b/c", "/a"].map(old).to_vec(), ..Default::default() };
    let new = |destination: &str, options: &[&str]| Mount {
        destination: destination.into(),
        source: "/s".into(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
        ..Default::default()
    };
    let mounts = vec![new("/a", &["rbind", "rslave"]), new("-/proc", &[]), new("/a/b", &["bind"])];
    let adjust = ContainerAdjustment { mounts, ..Default::default() };
    let node = node(CgroupVersion::V2);
    apply(&mut spec, adjust, Able { node: &node, extras: ALL }).unwrap();
    let at: Vec<_> = spec.mounts.iter().map(|mount| mount.destination.to_str().unwrap()).collect();
    assert_eq!(at, ["/a", "/a/b", "/a/b/c"]);
    assert_eq!(
        (spec.mounts[0].kind.as_str(), spec.linux.rootfs_propagation.as_str()),
        ("bind", "rslave")
    );
}
