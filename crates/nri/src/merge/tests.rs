use super::*;
use berth_proto::nri::v1alpha1::{
    CdiDevice, Hook, LinuxMemory, LinuxNetDevice, LinuxResources, LinuxSeccomp, OptionalBool,
    OptionalInt, OptionalInt64, OptionalString, PosixRlimit,
};

fn creation() -> Creation {
    Creation::new(Container {
        id: "c".into(),
        annotations: [("old".to_owned(), "1".to_owned())].into(),
        env: vec!["PATH=/bin".into(), "A=1".into()],
        args: vec!["/bin/app".into()],
        mounts: vec![mount("/data")],
        ..Container::default()
    })
}

fn mount(destination: &str) -> Mount {
    Mount { destination: destination.into(), source: "/src".into(), ..Mount::default() }
}

fn variable(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.into(), value: value.into() }
}

fn take(creation: &mut Creation, adjust: ContainerAdjustment, plugin: &str) -> Result<(), String> {
    let answer = CreateContainerResponse { adjust: Some(adjust), ..Default::default() };
    creation.take(answer, plugin).map_err(|why| why.to_string())
}

fn annotations(pairs: &[(&str, &str)]) -> ContainerAdjustment {
    let pair = |&(key, value): &(&str, &str)| (key.to_owned(), value.to_owned());
    ContainerAdjustment { annotations: pairs.iter().map(pair).collect(), ..Default::default() }
}

fn env(variables: &[KeyValue]) -> ContainerAdjustment {
    ContainerAdjustment { env: variables.to_vec(), ..Default::default() }
}

fn mounts(mounts: &[Mount]) -> ContainerAdjustment {
    ContainerAdjustment { mounts: mounts.to_vec(), ..Default::default() }
}

fn args(args: &[&str]) -> ContainerAdjustment {
    let args = args.iter().map(|&arg| arg.to_owned()).collect();
    ContainerAdjustment { args, ..Default::default() }
}

fn linux(linux: LinuxContainerAdjustment) -> ContainerAdjustment {
    ContainerAdjustment { linux: Some(linux), ..Default::default() }
}

#[test]
fn the_next_plugin_sees_what_the_one_before_has_done() {
    let mut c = creation();
    take(&mut c, annotations(&[("new", "2"), ("-old", "")]), "10-x").unwrap();
    take(&mut c, env(&[variable("A", "2"), variable("B", "3"), variable("-PATH", "")]), "10-x")
        .unwrap();
    take(&mut c, mounts(&[mount("-/data"), mount("/more")]), "10-x").unwrap();
    assert_eq!(c.container.annotations, [("new".to_owned(), "2".to_owned())].into());
    assert_eq!(c.container.env, ["A=2", "B=3"]);
    assert_eq!(c.container.mounts, [mount("/more")]);
    let adjust = c.into_created().adjust;
    let kept = [("-old".to_owned(), String::new()), ("new".to_owned(), "2".to_owned())];
    assert_eq!(adjust.annotations, kept.into());
    assert_eq!(adjust.mounts, [mount("-/data"), mount("/more")]);
    let variables = [variable("-PATH", ""), variable("A", "2"), variable("B", "3")];
    assert_eq!(adjust.env, variables);
}

#[test]
fn two_plugins_that_set_the_same_are_both_named() {
    let memory = |value| {
        let limit = Some(OptionalInt64 { value });
        let memory = Some(LinuxMemory { limit, ..LinuxMemory::default() });
        let resources = Some(LinuxResources { memory, ..LinuxResources::default() });
        linux(LinuxContainerAdjustment { resources, ..Default::default() })
    };
    let rlimit = || PosixRlimit { r#type: "RLIMIT_NOFILE".into(), hard: 5, soft: 5 };
    let seccomp = || LinuxSeccomp { default_action: "SCMP_ACT_ALLOW".into(), ..Default::default() };
    let namespace = || LinuxNamespace { r#type: "uts".into(), path: String::new() };
    let all = [
        (annotations(&[("a", "1")]), "Annotations \"a\""),
        (env(&[variable("X", "1")]), "Env \"X\""),
        (mounts(&[mount("/more")]), "Mounts \"/more\""),
        (args(&["sh"]), "Args"),
        (memory(1), "MemLimit"),
        (
            ContainerAdjustment { rlimits: vec![rlimit()], ..Default::default() },
            "Rlimits \"RLIMIT_NOFILE\"",
        ),
        (
            ContainerAdjustment {
                cdi_devices: vec![CdiDevice { name: "v/c=d".into() }],
                ..Default::default()
            },
            "CdiDevices \"v/c=d\"",
        ),
        (
            linux(LinuxContainerAdjustment {
                oom_score_adj: Some(OptionalInt { value: 5 }),
                ..Default::default()
            }),
            "OomScoreAdj",
        ),
        (
            linux(LinuxContainerAdjustment {
                seccomp_policy: Some(seccomp()),
                ..Default::default()
            }),
            "SeccompPolicy",
        ),
        (
            linux(LinuxContainerAdjustment { namespaces: vec![namespace()], ..Default::default() }),
            "Namespace \"uts\"",
        ),
        (
            linux(LinuxContainerAdjustment {
                net_devices: [("eth9".to_owned(), LinuxNetDevice::default())].into(),
                ..Default::default()
            }),
            "LinuxNetDevices \"eth9\"",
        ),
    ];
    for (adjust, what) in all {
        let mut c = creation();
        take(&mut c, adjust.clone(), "10-x").unwrap();
        let why = take(&mut c, adjust, "20-y").unwrap_err();
        assert!(why.contains(&format!("10-x and 20-y both set {what} of container c")), "{why}");
    }
}

#[test]
fn who_removes_what_another_has_set_may_set_it_anew() {
    let mut c = creation();
    for (plugin, value) in [("10-x", "1"), ("20-y", "2")] {
        take(&mut c, annotations(&[("a", value), ("-a", "")]), plugin).unwrap();
        take(&mut c, env(&[variable("-E", ""), variable("E", value)]), plugin).unwrap();
        take(&mut c, mounts(&[mount("-/m"), mount("/m")]), plugin).unwrap();
        take(&mut c, args(&["", "sh", value]), plugin).unwrap();
    }
    let created = c.into_created().adjust;
    assert_eq!(created.annotations["a"], "2");
    assert_eq!(created.env.iter().filter(|one| one.key == "E").count(), 1);
    assert_eq!(created.mounts.iter().filter(|one| one.destination == "/m").count(), 1);
    assert_eq!(created.args, ["sh", "2"]);
}

#[test]
fn what_is_removed_and_not_set_stays_removed() {
    let mut c = creation();
    take(&mut c, env(&[variable("E", "1")]), "10-x").unwrap();
    take(&mut c, env(&[variable("-E", "")]), "20-y").unwrap();
    take(&mut c, annotations(&[("a", "1")]), "10-x").unwrap();
    take(&mut c, annotations(&[("-a", "")]), "20-y").unwrap();
    assert!(!c.container.env.iter().any(|one| one.starts_with("E=")));
    let created = c.into_created().adjust;
    assert_eq!(created.env, [variable("-E", "")]);
    assert_eq!(created.annotations, [("-a".to_owned(), String::new())].into());
}

#[test]
fn hooks_of_several_plugins_add_up() {
    let hooks = |path: &str| {
        let hook = Hook { path: path.into(), ..Hook::default() };
        let hooks = Some(Hooks { create_runtime: vec![hook], ..Hooks::default() });
        ContainerAdjustment { hooks, ..Default::default() }
    };
    let mut c = creation();
    take(&mut c, hooks("/one"), "10-x").unwrap();
    take(&mut c, hooks("/two"), "20-y").unwrap();
    let (_, _, owners) = c.so_far();
    assert_eq!(owners.owners["c"].simple[&(Field::OciHooks as i32)], "10-x,20-y");
    let hooks = c.into_created().adjust.hooks.unwrap().create_runtime;
    assert_eq!(hooks.iter().map(|hook| hook.path.as_str()).collect::<Vec<_>>(), ["/one", "/two"]);
}

#[test]
fn rdt_is_set_by_part_and_removed_as_a_whole() {
    let rdt = |rdt| linux(LinuxContainerAdjustment { rdt: Some(rdt), ..Default::default() });
    let clos = |value: &str| Some(OptionalString { value: value.into() });
    let mut c = creation();
    take(&mut c, rdt(LinuxRdt { clos_id: clos("a"), ..Default::default() }), "10-x").unwrap();
    let monitoring = Some(OptionalBool { value: true });
    take(&mut c, rdt(LinuxRdt { enable_monitoring: monitoring, ..Default::default() }), "20-y")
        .unwrap();
    let again = LinuxRdt { clos_id: clos("b"), ..Default::default() };
    assert!(take(&mut c, rdt(again.clone()), "20-y").unwrap_err().contains("RdtClosID"));
    take(&mut c, rdt(LinuxRdt { remove: true, ..again }), "20-y").unwrap();
    let set = c.into_created().adjust.linux.unwrap().rdt.unwrap();
    assert_eq!(set, LinuxRdt { clos_id: clos("b"), ..Default::default() });
}

#[test]
fn what_is_being_created_cannot_be_evicted() {
    let evict = |id: &str| CreateContainerResponse {
        evict: vec![ContainerEviction { container_id: id.into(), ..Default::default() }],
        ..Default::default()
    };
    let mut c = creation();
    c.take(evict("other"), "10-x").unwrap();
    let why = c.take(evict("c"), "10-x").unwrap_err().to_string();
    assert!(why.contains("10-x: it evicts container c"), "{why}");
}
