//! What holds for every request: no panic, the same bytes each time, never weaker than asked.

mod sample;

use std::collections::BTreeSet;

use berth_oci::facts::{CgroupVersion, SourcePropagation};
use berth_oci::spec::NamespaceKind;
use berth_oci::{
    CapabilitySet, Spec, container_spec, exec_process, from_json, to_json, update_resources,
};
use berth_pod::spec::{PidMode, PodOrNode, Profile, Propagation, Resources};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use sample::{Sample, sample};

/// A mount as the strategy draws it: destination, read-only, recursively, propagation.
type Drawn = (String, bool, bool, Propagation);

fn capability() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("ALL".to_owned()),
        Just("all".to_owned()),
        prop::sample::select(CapabilitySet::all().names()),
        prop::sample::select(vec!["sys_admin", "NET_RAW", "chown", "MKNOD"])
            .prop_map(str::to_owned),
    ]
}

fn path() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "data", "etc", "hosts", "dev", "shm", "pts", "sys", "fs", "cgroup", "proc", "..", ".", "",
    ]);
    prop::collection::vec(part, 1..5).prop_map(|parts| format!("/{}", parts.join("/")))
}

fn propagation() -> impl Strategy<Value = Propagation> {
    prop::sample::select(vec![
        Propagation::Private,
        Propagation::HostToContainer,
        Propagation::Bidirectional,
    ])
}

fn pid() -> impl Strategy<Value = PidMode> {
    prop::sample::select(vec![
        PidMode::Container,
        PidMode::Pod,
        PidMode::Node,
        PidMode::Target("other".to_owned()),
    ])
}

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![20 => Just(0), 20 => 1..=1_000_000i64, 1 => Just(-1), 1 => any::<i64>()]
}

prop_compose! {
    fn resources()(
        numbers in prop::array::uniform6(number()),
        cpus in "[0-9,-]{0,6}",
        unified in prop::bool::weighted(0.1),
    ) -> Resources {
        let [cpu_period, cpu_quota, cpu_shares, memory_limit, memory_swap_limit, oom] = numbers;
        let unified = if unified { [("memory.high".to_owned(), "1".to_owned())].into() } else { [].into() };
        Resources {
            cpu_period, cpu_quota, cpu_shares, memory_limit,
            memory_swap_limit: memory_swap_limit.saturating_add(memory_limit),
            oom_score_adj: oom % 1020, cpuset_cpus: cpus, unified, ..Resources::default()
        }
    }
}

prop_compose! {
    fn any_request()(
        flags in prop::array::uniform10(any::<bool>()),
        capabilities in prop::array::uniform3(prop::collection::vec(capability(), 0..4)),
        mounts in prop::collection::vec((path(), any::<bool>(), any::<bool>(), propagation()), 0..6),
        pid in pid(),
        resources in resources(),
        volumes in prop::collection::vec(path(), 0..3),
        own in prop_oneof![3 => Just(u64::MAX), 1 => any::<u64>()],
        texts in prop::array::uniform4("\\PC{0,8}"),
    ) -> Sample {
        let mut s = sample();
        let [privileged, readonly, no_new_privs, default_profile, user, host_net, host_ipc, v2, tty, old] = flags;
        if privileged { s.privileged(); }
        if user && !privileged { s.user_namespace(); }
        if host_net { s.pod.namespaces.network = PodOrNode::Node; }
        if host_ipc { s.pod.namespaces.ipc = PodOrNode::Node; }
        if v2 { s.node.cgroup_version = CgroupVersion::V2; }
        if default_profile { s.spec.security.seccomp = Profile::RuntimeDefault; }
        s.handler.recursive_read_only = !old;
        s.spec.tty = tty;
        s.spec.security.readonly_rootfs = readonly;
        s.spec.security.no_new_privs = no_new_privs;
        let [add, drop, ambient] = capabilities;
        s.spec.security.add_capabilities = add;
        s.spec.security.drop_capabilities = drop;
        s.spec.security.add_ambient_capabilities = ambient;
        s.node.capabilities = CapabilitySet::from_bits(own | 0x1ff_0000_0000 | 0x20_0000);
        s.spec.security.pid = pid;
        s.namespaces.pid = Some("/run/pid".into());
        s.target_pid = Some("/proc/1/ns/pid".into());
        s.spec.resources = resources;
        for mount in &mounts { draw(&mut s, mount); }
        s.image_volumes =
            volumes.into_iter().map(|v| (v.into(), "/var/lib/volume".into())).collect();
        let [name, value, dir, arg] = texts;
        s.spec.envs.push((name, value));
        s.spec.working_dir = if dir.is_empty() { dir } else { format!("/{dir}") };
        s.spec.args.push(arg);
        s
    }
}

fn draw(s: &mut Sample, (to, readonly, recursive, propagation): &Drawn) {
    s.mount(to, "/srv", |m| {
        m.readonly = *readonly;
        m.recursive_read_only = *recursive && *readonly && *propagation == Propagation::Private;
        m.propagation = *propagation;
    });
    s.mounts.last_mut().unwrap().propagation = SourcePropagation::Shared;
}

fn set(names: &[String]) -> BTreeSet<&str> {
    names.iter().map(String::as_str).collect()
}

fn capabilities_hold(s: &Sample, spec: &Spec) {
    let got = &spec.process.as_ref().unwrap().capabilities;
    let own = s.node.capabilities.names();
    let (bounding, ambient) = (set(&got.bounding), set(&got.ambient));
    assert!(bounding.is_subset(&set(&own)), "more than the daemon has");
    assert_eq!(got.effective, got.bounding);
    assert_eq!(got.permitted, got.bounding);
    assert_eq!(got.inheritable, got.ambient);
    assert!(ambient.is_subset(&bounding));
    if s.spec.security.privileged {
        return;
    }
    let bare = |name: &str| {
        let upper = name.to_ascii_uppercase();
        upper.strip_prefix("CAP_").unwrap_or(&upper).to_owned()
    };
    let asked = |list: &[String]| list.iter().map(|n| bare(n)).collect::<BTreeSet<_>>();
    let security = &s.spec.security;
    let dropped = asked(&security.drop_capabilities);
    let mut added = asked(&security.add_capabilities);
    added.extend(asked(&security.add_ambient_capabilities));
    for name in bounding {
        let name = bare(name);
        assert!(!dropped.contains(&name), "{name} was dropped");
        let default = CapabilitySet::defaults().has(&name) && !dropped.contains("ALL");
        let every = added.contains("ALL");
        assert!(default || every || added.contains(&name), "{name} was not asked for");
    }
    if !asked(&security.add_ambient_capabilities).contains("ALL") {
        let named = asked(&security.add_ambient_capabilities);
        assert!(ambient.iter().all(|name| named.contains(&bare(name))));
    }
}

fn mounts_hold(s: &Sample, spec: &Spec) {
    for (at, mount) in spec.mounts.iter().enumerate() {
        for later in &spec.mounts[at + 1..] {
            assert!(
                !mount.destination.starts_with(&later.destination),
                "{:?} is hidden by {:?}",
                mount.destination,
                later.destination
            );
        }
    }
    let clean = |path: &std::path::Path| {
        let mut parts: Vec<String> = Vec::new();
        for part in path.to_string_lossy().split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                other => parts.push(other.to_owned()),
            }
        }
        std::path::PathBuf::from(format!("/{}", parts.join("/")))
    };
    for (at, asked) in s.spec.mounts.iter().enumerate() {
        let to = clean(&asked.container_path);
        let again = &s.spec.mounts[at + 1..];
        if again.iter().any(|other| clean(&other.container_path) == to) {
            continue;
        }
        let made = spec.mounts.iter().find(|m| m.destination == to).expect("the mount is made");
        let has = |option: &str| made.options.iter().any(|o| o == option);
        assert_eq!(has("ro") || has("rro"), asked.readonly, "{to:?}");
        assert_eq!(has("rro"), asked.recursive_read_only, "{to:?}");
        assert_eq!(has("rshared"), asked.propagation == Propagation::Bidirectional, "{to:?}");
        assert_eq!(has("rprivate"), asked.propagation == Propagation::Private, "{to:?}");
    }
}

fn confinement_holds(s: &Sample, spec: &Spec) {
    let (security, linux) = (&s.spec.security, &spec.linux);
    let process = spec.process.as_ref().unwrap();
    assert_eq!(process.no_new_privileges, security.no_new_privs);
    assert_eq!(spec.root.as_ref().unwrap().readonly, security.readonly_rootfs);
    let of = |kind| linux.namespaces.iter().find(|n| n.kind == kind);
    assert_eq!(of(NamespaceKind::Mount).unwrap().path, None);
    let pid = of(NamespaceKind::Pid);
    match security.pid {
        PidMode::Node => assert!(pid.is_none()),
        PidMode::Container => assert_eq!(pid.unwrap().path, None),
        PidMode::Pod | PidMode::Target(_) => assert!(pid.unwrap().path.is_some()),
    }
    let pod = &s.pod.namespaces;
    assert_eq!(of(NamespaceKind::Network).is_some(), pod.network == PodOrNode::Pod);
    assert_eq!(of(NamespaceKind::Uts).is_some(), pod.network == PodOrNode::Pod);
    assert_eq!(of(NamespaceKind::Ipc).is_some(), pod.ipc == PodOrNode::Pod);
    assert_eq!(of(NamespaceKind::User).is_some(), pod.user.is_some());
    assert_eq!(linux.uid_mappings.is_empty(), pod.user.is_none());
    let names: BTreeSet<_> = linux.namespaces.iter().map(|n| n.kind).collect();
    assert_eq!(names.len(), linux.namespaces.len(), "no namespace twice");
    if security.privileged {
        return;
    }
    assert!(!linux.masked_paths.is_empty() && !linux.readonly_paths.is_empty());
    assert!(!linux.resources.devices[0].allow, "devices start from none");
    assert!(linux.devices.is_empty());
    let profile = linux.seccomp.as_ref();
    assert_eq!(profile.is_some(), security.seccomp == Profile::RuntimeDefault);
    assert!(profile.is_none_or(|p| p.default_action == "SCMP_ACT_ERRNO"));
    let sysfs = spec.mounts.iter().find(|m| m.destination == std::path::Path::new("/sys"));
    if let Some(sysfs) = sysfs.filter(|m| m.kind == "sysfs") {
        assert!(sysfs.options.contains(&"ro".to_owned()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn a_spec_is_never_weaker_than_the_request(s in any_request()) {
        if let Ok(spec) = container_spec(&s.input()) {
            capabilities_hold(&s, &spec);
            mounts_hold(&s, &spec);
            confinement_holds(&s, &spec);
        }
    }

    #[test]
    fn the_same_request_gives_the_same_bytes_and_they_read_back(s in any_request()) {
        if let Ok(spec) = container_spec(&s.input()) {
            let bytes = to_json(&spec).unwrap();
            prop_assert_eq!(&bytes, &to_json(&container_spec(&s.input()).unwrap()).unwrap());
            prop_assert_eq!(from_json(&bytes).unwrap(), spec);
        }
    }

    #[test]
    fn an_exec_is_never_stronger_than_its_container(s in any_request(), tty in any::<bool>()) {
        if let Ok(spec) = container_spec(&s.input()) {
            let exec = exec_process(&spec, &["true".to_owned()], tty).unwrap();
            let first = spec.process.unwrap();
            prop_assert_eq!(exec.capabilities, first.capabilities);
            prop_assert_eq!(exec.user, first.user);
            prop_assert_eq!(exec.no_new_privileges, first.no_new_privileges);
            prop_assert_eq!(exec.apparmor_profile, first.apparmor_profile);
        }
    }

    #[test]
    fn an_update_to_the_same_limits_changes_nothing(s in any_request()) {
        if let Ok(mut spec) = container_spec(&s.input()) {
            let before = spec.clone();
            update_resources(&mut spec, &s.spec.resources, &s.node).unwrap();
            prop_assert_eq!(spec, before);
        }
    }

    #[test]
    fn any_update_is_taken_whole_or_not_at_all(s in any_request(), asked in resources()) {
        if let Ok(mut spec) = container_spec(&s.input()) {
            let before = spec.clone();
            match update_resources(&mut spec, &asked, &s.node) {
                Err(_) => prop_assert_eq!(spec, before),
                Ok(_) => {
                    let memory = &spec.linux.resources.memory;
                    if let (Some(limit), Some(swap)) = (memory.limit, memory.swap) {
                        prop_assert!(swap == -1 || swap >= limit, "{} < {}", swap, limit);
                    }
                    prop_assert_eq!(&spec.linux.resources.devices, &before.linux.resources.devices);
                }
            }
        }
    }

    #[test]
    fn bytes_that_are_no_spec_or_profile_are_errors(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = from_json(&bytes);
        prop_assert!(berth_oci::parse_profile("/p", &bytes).is_err());
    }
}

/// Otherwise the properties would hold for want of anything to look at.
#[test]
fn many_requests_that_are_drawn_can_be_kept() {
    let mut runner = TestRunner::deterministic();
    let drawn = (0..200).map(|_| any_request().new_tree(&mut runner).unwrap().current());
    let kept = drawn.filter(|s| container_spec(&s.input()).is_ok()).count();
    assert!(kept > 50, "only {kept} of 200");
}
