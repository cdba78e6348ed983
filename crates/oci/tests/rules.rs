//! Single rules: what is refused, and what an update changes.

mod sample;

use berth_oci::facts::{AppArmor, Arch, CgroupVersion, SourcePropagation, oom_floor};
use berth_oci::{
    CapabilitySet, Error, container_spec, default_profile, image_volumes, linux_resources,
    parse_profile, update_resources,
};
use std::path::Path;

use berth_pod::Kind;
use berth_pod::spec::{PidMode, Profile, Propagation, Resources, Selinux};
use sample::{Sample, node, sample};

fn refused(change: impl FnOnce(&mut Sample)) -> Error {
    let mut s = sample();
    change(&mut s);
    container_spec(&s.input()).expect_err("this request cannot be kept")
}

#[track_caller]
fn expect(error: &Error, kind: Kind, field: &str) {
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().starts_with(&format!("{field}: ")), "{error}");
}

#[test]
fn nothing_to_run_is_invalid() {
    let error = refused(|s| {
        s.image.entrypoint.clear();
        s.image.cmd.clear();
    });
    expect(&error, Kind::Invalid, "command");
    assert!(error.to_string().contains("registry.example/app:1"), "{error}");
}

#[test]
fn a_command_replaces_the_arguments_of_the_image_too() {
    let args = |command: &[&str], args: &[&str]| {
        let mut s = sample();
        s.spec.command = command.iter().map(|&c| c.to_owned()).collect();
        s.spec.args = args.iter().map(|&a| a.to_owned()).collect();
        container_spec(&s.input()).unwrap().process.unwrap().args
    };
    assert_eq!(args(&[], &[]), ["/bin/app", "--serve"]);
    assert_eq!(args(&[], &["--help"]), ["/bin/app", "--help"]);
    assert_eq!(args(&["/bin/sh"], &[]), ["/bin/sh"]);
    assert_eq!(args(&["/bin/sh"], &["-c", "x"]), ["/bin/sh", "-c", "x"]);
}

#[test]
fn capabilities_are_refused_when_unknown_or_not_ours_to_give() {
    let error = refused(|s| s.spec.security.add_capabilities = vec!["FLY".to_owned()]);
    expect(&error, Kind::Invalid, "capabilities.add_capabilities");
    let error = refused(|s| s.spec.security.drop_capabilities = vec!["SYS_ADMN".to_owned()]);
    expect(&error, Kind::Invalid, "capabilities.drop_capabilities");
    let error = refused(|s| {
        s.node.capabilities = CapabilitySet::defaults();
        s.spec.security.add_capabilities = vec!["SYS_TIME".to_owned()];
    });
    expect(&error, Kind::Unimplemented, "capabilities.add_capabilities");
}

#[test]
fn all_comes_before_single_capabilities_and_a_drop_wins() {
    let bounding = |add: &[&str], drop: &[&str]| {
        let mut s = sample();
        s.spec.security.add_capabilities = add.iter().map(|&c| c.to_owned()).collect();
        s.spec.security.drop_capabilities = drop.iter().map(|&c| c.to_owned()).collect();
        container_spec(&s.input()).unwrap().process.unwrap().capabilities.bounding
    };
    assert_eq!(bounding(&["CAP_NET_ADMIN"], &["all"]), ["CAP_NET_ADMIN"]);
    assert_eq!(bounding(&["all"], &[]).len(), 41);
    let most = bounding(&["ALL"], &["sys_admin"]);
    assert!(most.len() == 40 && !most.contains(&"CAP_SYS_ADMIN".to_owned()));
    let neither = bounding(&["SYS_TIME"], &["SYS_TIME", "CAP_CHOWN"]);
    assert!(!neither.contains(&"CAP_SYS_TIME".to_owned()) && neither.len() == 13);
}

#[test]
fn privileged_needs_a_privileged_sandbox_and_the_hosts_user_namespace() {
    let error = refused(|s| s.spec.security.privileged = true);
    expect(&error, Kind::Invalid, "security_context.privileged");
    let error = refused(|s| {
        s.privileged();
        s.user_namespace();
    });
    expect(&error, Kind::Invalid, "security_context.privileged");
}

#[test]
fn a_user_namespace_cannot_show_the_nodes_processes() {
    let error = refused(|s| {
        s.user_namespace();
        s.spec.security.pid = PidMode::Node;
    });
    expect(&error, Kind::Invalid, "security_context.namespace_options.pid");
}

#[test]
fn the_environment_has_no_empty_host_name_and_refuses_impossible_names() {
    let mut s = sample();
    s.hostname.clear();
    let env = container_spec(&s.input()).unwrap().process.unwrap().env;
    assert!(!env.iter().any(|pair| pair.starts_with("HOSTNAME")), "{env:?}");
    for (name, value) in [("", "x"), ("A=B", "x"), ("A", "x\0y")] {
        let error = refused(|s| s.spec.envs.push((name.to_owned(), value.to_owned())));
        expect(&error, Kind::Invalid, "envs");
    }
}

#[test]
fn cpu_shares_stay_within_what_the_kernel_takes() {
    let shares = |cpu_shares| {
        let asked = Resources { cpu_shares, ..Resources::default() };
        linux_resources(&asked, &node()).unwrap().cpu.shares
    };
    assert_eq!(
        [0, 1, 2, 1024, 1 << 40].map(shares),
        [None, Some(2), Some(2), Some(1024), Some(262_144)]
    );
}

#[test]
fn propagation_needs_a_source_that_takes_part() {
    let from = |asked, found| {
        let mut s = sample();
        s.mount("/mnt", "/srv", |m| m.propagation = asked);
        s.mounts[0].propagation = found;
        container_spec(&s.input()).map(|spec| spec.linux.rootfs_propagation)
    };
    use Propagation::{Bidirectional, HostToContainer};
    use SourcePropagation::{Private, Shared, Slave};
    assert_eq!(from(Propagation::Private, Private).unwrap(), "");
    assert_eq!(from(HostToContainer, Slave).unwrap(), "rslave");
    assert_eq!(from(Bidirectional, Shared).unwrap(), "rshared");
    for (asked, found) in [(HostToContainer, Private), (Bidirectional, Slave)] {
        let error = from(asked, found).unwrap_err();
        expect(&error, Kind::Invalid, "mounts[0].propagation");
        assert!(error.to_string().contains("/srv"), "{error}");
    }
}

#[test]
fn recursive_read_only_is_never_silently_less() {
    let rro = |change: fn(&mut Sample)| {
        refused(|s| {
            s.mount("/mnt", "/srv", |m| {
                m.readonly = true;
                m.recursive_read_only = true;
            });
            change(s);
        })
    };
    for error in [
        rro(|s| s.node.recursive_read_only = false),
        rro(|s| s.handler.recursive_read_only = false),
    ] {
        expect(&error, Kind::Unimplemented, "mounts[0].recursive_read_only");
        assert!(error.to_string().contains("RROUnsupported"), "{error}");
    }
    for error in [
        rro(|s| s.spec.mounts[0].readonly = false),
        rro(|s| s.spec.mounts[0].propagation = Propagation::HostToContainer),
    ] {
        expect(&error, Kind::Invalid, "mounts[0].recursive_read_only");
    }
}

#[test]
fn what_has_nothing_below_it_needs_no_recursion() {
    let mut s = sample();
    s.mount("/mnt", "/srv", |m| (m.readonly, m.recursive_read_only) = (true, true));
    for (alone, option) in [(false, "rro"), (true, "ro")] {
        s.mounts[0].alone = alone;
        let spec = container_spec(&s.input()).unwrap();
        let mount = spec.mounts.iter().find(|mount| mount.destination == Path::new("/mnt"));
        assert!(mount.unwrap().options.iter().any(|one| one == option), "{mount:?}");
    }
}

#[test]
fn id_mapped_mounts_need_a_runtime_that_knows_them() {
    let mapped = |change: fn(&mut Sample)| {
        let mut s = sample();
        s.user_namespace();
        let ids = s.pod.namespaces.user.as_ref().unwrap().uids.clone();
        s.mount("/mnt", "/srv", |m| {
            m.uid_mappings = ids.clone();
            m.gid_mappings = ids;
        });
        change(&mut s);
        container_spec(&s.input())
    };
    assert!(mapped(|_| {}).is_ok());
    let error = mapped(|s| s.handler.id_mapped_mounts = false).unwrap_err();
    expect(&error, Kind::Unimplemented, "mounts[0]");
    let error = mapped(|s| s.spec.mounts[0].gid_mappings.clear()).unwrap_err();
    expect(&error, Kind::Invalid, "mounts[0]");
    let staged = mapped(|s| {
        s.handler.id_mapped_mounts = false;
        s.mounts[0].id_mapped = true;
    });
    let mounts = staged.unwrap().mounts;
    let mount = mounts.iter().find(|m| m.destination.ends_with("mnt")).unwrap();
    assert!(mount.uid_mappings.is_empty() && !mount.options.contains(&"idmap".to_owned()));
}

#[test]
fn mounts_in_impossible_places_are_refused() {
    for (to, field) in [("/", "mounts[0].container_path"), ("/a/..", "mounts[0].container_path")] {
        expect(&refused(|s| s.mount(to, "/srv", |_| {})), Kind::Invalid, field);
    }
    let error = refused(|s| s.mount("data", "/srv", |_| {}));
    expect(&error, Kind::Invalid, "mounts[0].container_path");
    let error = refused(|s| s.mount("/data", "srv", |_| {}));
    expect(&error, Kind::Invalid, "mounts[0].host_path");
}

#[test]
fn confinement_that_the_node_lacks_is_refused() {
    let error = refused(|s| {
        s.node.seccomp = false;
        s.spec.security.seccomp = Profile::RuntimeDefault;
    });
    expect(&error, Kind::Unimplemented, "security_context.seccomp");
    let error = refused(|s| s.spec.security.apparmor = Profile::Localhost("mine".to_owned()));
    expect(&error, Kind::Unimplemented, "security_context.apparmor");
    let error = refused(|s| {
        s.node.apparmor = AppArmor::On { default_profile: None };
        s.spec.security.apparmor = Profile::RuntimeDefault;
    });
    expect(&error, Kind::Unimplemented, "security_context.apparmor");
    let error = refused(|s| s.spec.security.seccomp = Profile::Localhost("/profiles/x".to_owned()));
    assert_eq!(error.kind(), Kind::Broken, "the profile was not supplied: {error}");
}

#[test]
fn apparmor_profiles() {
    let profile = |asked: Profile, privileged: bool| {
        let mut s = sample();
        s.node.apparmor = AppArmor::On { default_profile: Some("berth-default".to_owned()) };
        s.spec.security.apparmor = asked;
        if privileged {
            s.privileged();
        }
        container_spec(&s.input()).unwrap().process.unwrap().apparmor_profile
    };
    assert_eq!(profile(Profile::Unset, false), "berth-default");
    assert_eq!(profile(Profile::RuntimeDefault, false), "berth-default");
    assert_eq!(profile(Profile::Unconfined, false), "unconfined");
    assert_eq!(profile(Profile::Localhost("mine".to_owned()), false), "mine");
    assert_eq!(profile(Profile::RuntimeDefault, true), "");
}

#[test]
fn selinux_labels_are_left_out_where_selinux_is_off() {
    let label = |on: bool| {
        let mut s = sample();
        s.node.selinux = on;
        s.spec.security.selinux = Some(Selinux { kind: "spc_t".to_owned(), ..Selinux::default() });
        container_spec(&s.input()).unwrap().process.unwrap().selinux_label
    };
    assert_eq!(label(true), "system_u:system_r:spc_t:s0");
    assert_eq!(label(false), "");
}

#[test]
fn devices_need_permissions_and_facts() {
    let device = |permissions: &str| berth_pod::spec::Device {
        container_path: "/dev/x".into(),
        host_path: "/dev/x".into(),
        permissions: permissions.to_owned(),
    };
    for bad in ["", "rx"] {
        let error = refused(|s| {
            s.spec.devices = vec![device(bad)];
            s.devices = vec![Vec::new()];
        });
        expect(&error, Kind::Invalid, "devices[0].permissions");
    }
    assert_eq!(refused(|s| s.spec.devices = vec![device("r")]).kind(), Kind::Broken);
}

#[test]
fn an_image_has_no_say_over_what_the_system_provides() {
    let mut s = sample();
    s.mount("/covered", "/srv", |_| {});
    s.image.volumes =
        ["/data/", "/", "/proc/x", "/sys", "/dev/shm", "/covered", "/data", "rel", "/a/../../b"]
            .map(str::to_owned)
            .to_vec();
    let volumes = image_volumes(&s.image, &s.spec);
    assert_eq!(volumes, ["/b", "/data", "/rel"].map(std::path::PathBuf::from));
}

#[test]
fn memory_without_swap_means_no_swap() {
    let node = node();
    let memory = |limit, swap| {
        let asked =
            Resources { memory_limit: limit, memory_swap_limit: swap, ..Resources::default() };
        linux_resources(&asked, &node).map(|r| (r.memory.limit, r.memory.swap))
    };
    assert_eq!(memory(0, 0).unwrap(), (None, None));
    assert_eq!(memory(100, 0).unwrap(), (Some(100), Some(100)));
    assert_eq!(memory(100, 150).unwrap(), (Some(100), Some(150)));
    assert_eq!(memory(100, -1).unwrap(), (Some(100), Some(-1)));
    assert_eq!(memory(-1, 0).unwrap(), (Some(-1), Some(-1)));
    for (limit, swap) in [(-2, 0), (100, 50), (0, 50), (100, -2)] {
        assert!(memory(limit, swap).is_err(), "{limit} {swap}");
    }
    let mut without = sample::node();
    without.swap_limit = false;
    let asked = Resources { memory_limit: 100, ..Resources::default() };
    assert_eq!(linux_resources(&asked, &without).unwrap().memory.swap, None);
}

#[test]
fn limits_that_the_node_cannot_keep() {
    let mut node = node();
    let mut asked = Resources::default();
    asked.unified.insert("memory.high".to_owned(), "1".to_owned());
    let error = linux_resources(&asked, &node).unwrap_err();
    expect(&error, Kind::Invalid, "linux.resources.unified");
    node.cgroup_version = CgroupVersion::V2;
    assert_eq!(linux_resources(&asked, &node).unwrap().unified.len(), 1);
    // The kubelet sends a limit of 0 for every page size; without the controller it means nothing.
    node.hugetlb = false;
    asked.hugepages.insert("2MB".to_owned(), 0);
    assert!(linux_resources(&asked, &node).unwrap().hugepage_limits.is_empty());
    for bad in [
        Resources { cpu_shares: -1, ..Resources::default() },
        Resources { cpu_period: -1, ..Resources::default() },
        Resources { cpuset_cpus: "0;1".to_owned(), ..Resources::default() },
        Resources { cpuset_mems: "all".to_owned(), ..Resources::default() },
    ] {
        assert_eq!(linux_resources(&bad, &node).unwrap_err().kind(), Kind::Invalid, "{bad:?}");
    }
}

#[test]
fn an_update_changes_what_it_names_and_nothing_else() {
    let mut s = sample();
    s.spec.resources = Resources {
        cpu_shares: 512,
        memory_limit: 1 << 20,
        memory_swap_limit: 4 << 20,
        cpuset_cpus: "0-1".to_owned(),
        oom_score_adj: 100,
        hugepages: [("2MB".to_owned(), 1)].into(),
        ..Resources::default()
    };
    let before = container_spec(&s.input()).unwrap();
    let mut spec = before.clone();
    let asked = Resources {
        cpu_quota: 7000,
        memory_limit: 2 << 20,
        oom_score_adj: 200,
        hugepages: [("2MB".to_owned(), 2)].into(),
        ..Resources::default()
    };
    let change = update_resources(&mut spec, &asked, &s.node).unwrap();
    let now = &spec.linux.resources;
    assert_eq!((now.cpu.shares, now.cpu.quota), (Some(512), Some(7000)));
    assert_eq!(now.cpu.cpus, "0-1");
    assert_eq!((now.memory.limit, now.memory.swap), (Some(2 << 20), Some(4 << 20)));
    assert_eq!(now.hugepage_limits.len(), 1);
    assert_eq!(now.hugepage_limits[0].limit, 2);
    assert_eq!(now.devices, before.linux.resources.devices);
    assert_eq!(spec.process.as_ref().unwrap().oom_score_adj, Some(200));
    assert_eq!((change.cpu.shares, change.cpu.quota), (None, Some(7000)));
    assert!(change.devices.is_empty(), "an update carries no device rules");
    // A swap limit alone is measured against the memory limit that holds.
    let asked = Resources { memory_swap_limit: 3 << 20, ..Resources::default() };
    update_resources(&mut spec, &asked, &s.node).unwrap();
    assert_eq!(spec.linux.resources.memory.limit, Some(2 << 20));
    assert_eq!(spec.linux.resources.memory.swap, Some(3 << 20));
    // More than memory and swap together allowed: the allowance cannot stay.
    let asked = Resources { memory_limit: 8 << 20, ..Resources::default() };
    update_resources(&mut spec, &asked, &s.node).unwrap();
    assert_eq!(spec.linux.resources.memory.swap, Some(8 << 20));
}

#[test]
fn a_refused_update_leaves_the_spec_alone() {
    let s = sample();
    let before = container_spec(&s.input()).unwrap();
    let mut spec = before.clone();
    let asked = Resources { memory_limit: 1 << 20, oom_score_adj: 5000, ..Resources::default() };
    assert!(update_resources(&mut spec, &asked, &s.node).is_err());
    assert_eq!(spec, before);
}

#[test]
fn the_oom_score_stops_at_the_floor() {
    assert_eq!(oom_floor(true, -10, true), Some(-10));
    assert_eq!(oom_floor(false, 0, false), Some(0), "the kernel would refuse less");
    assert_eq!(oom_floor(false, 0, true), None);
    let score = |asked: i64, floor: Option<i32>| {
        let mut node = node();
        node.oom_floor = floor;
        berth_oci::oom_score_adj(asked, &node)
    };
    assert_eq!(score(-997, Some(-10)).unwrap(), -10);
    assert_eq!(score(900, Some(-10)).unwrap(), 900);
    assert_eq!(score(-997, None).unwrap(), -997);
    assert!(score(1001, None).is_err());
}

fn names(profile: &berth_oci::spec::Seccomp, call: &str) -> Vec<String> {
    let rules = profile.syscalls.iter().filter(|r| r.names.iter().any(|n| n == call));
    rules.map(|r| r.action.clone()).collect()
}

#[test]
fn the_default_profile_follows_capabilities_architecture_and_kernel() {
    let mut node = node();
    let none = CapabilitySet::default();
    let plain = default_profile(&node, none);
    for (call, times) in
        [("read", 1), ("socket", 3), ("personality", 5), ("mount", 0), ("ptrace", 1), ("bpf", 0)]
    {
        assert_eq!(names(&plain, call).len(), times, "{call}");
    }
    assert_eq!(names(&plain, "clone3"), ["SCMP_ACT_ERRNO"]);
    assert_eq!(names(&plain, "arch_prctl").len(), 1);
    let all = default_profile(&node, CapabilitySet::all());
    for call in ["mount", "bpf", "clone", "clone3", "reboot", "kcmp", "open_by_handle_at"] {
        assert_eq!(names(&all, call), ["SCMP_ACT_ALLOW"], "{call}");
    }
    node.kernel = (4, 4);
    assert!(names(&default_profile(&node, none), "ptrace").is_empty());
    node.arch = Arch::S390x;
    let mainframe = default_profile(&node, none);
    let clone = mainframe.syscalls.iter().find(|r| r.names == ["clone"]).unwrap();
    assert_eq!(clone.args[0].index, 1, "s390 passes the flags second");
    assert!(names(&mainframe, "arch_prctl").is_empty());
    assert_eq!(mainframe.architectures, ["SCMP_ARCH_S390X", "SCMP_ARCH_S390"]);
}

#[test]
fn profile_files_are_read_as_the_oci_form() {
    let plain = br#"{"defaultAction":"SCMP_ACT_ERRNO","comment":"x","architectures":null,
        "syscalls":[{"name":"read","action":"SCMP_ACT_ALLOW","args":null,"includes":{}},
                    {"names":["socket"],"action":"SCMP_ACT_ALLOW",
                     "args":[{"index":0,"value":1,"valueTwo":0,"op":"SCMP_CMP_EQ"}]}]}"#;
    let profile = parse_profile("/p.json", plain).unwrap();
    assert_eq!(profile.syscalls[0].names, ["read"]);
    assert_eq!(profile.syscalls[1].args[0].value, 1);
    for bad in [
        &b"not json"[..],
        br#"{"syscalls":[]}"#,
        br#"{"defaultAction":"SCMP_ACT_ERRNO","archMap":[{"architecture":"SCMP_ARCH_X86_64"}]}"#,
        br#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
            {"names":["mount"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}}]}"#,
    ] {
        let error = parse_profile("/p.json", bad).unwrap_err();
        expect(&error, Kind::Invalid, "security_context.seccomp");
        assert!(error.to_string().contains("/p.json"), "{error}");
    }
}
