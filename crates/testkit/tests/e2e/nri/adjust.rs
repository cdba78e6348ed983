//! Each adjustment, read inside of the container or from its cgroup.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use berth_nri::api::{
    CdiDevice, ContainerAdjustment, Hook, Hooks, HugepageLimit, KeyValue, LinuxContainerAdjustment,
    LinuxCpu, LinuxDevice, LinuxIoPriority, LinuxMemory, LinuxMemoryPolicy, LinuxNamespace,
    LinuxNetDevice, LinuxPids, LinuxRdt, LinuxResources, LinuxScheduler, LinuxSeccomp,
    LinuxSyscall, Mount, OptionalFileMode, OptionalInt, OptionalInt64, OptionalString,
    OptionalUInt32, OptionalUInt64, PosixRlimit,
};
use berth_testkit::bed::{Bed, busybox, on_a_node, on_a_node_with};
use berth_testkit::config::Config;
use berth_testkit::cri::RunningPod;
use berth_testkit::nri::{Plugin, adjusts};
use berth_testkit::specs::{Container, Pod};
use tonic::Code;

use crate::resources::cgroup;

fn variable(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.into(), value: value.into() }
}

fn linux(linux: LinuxContainerAdjustment) -> ContainerAdjustment {
    ContainerAdjustment { linux: Some(linux), ..ContainerAdjustment::default() }
}

/// Launches an idle container that a plugin adjusts like this.
async fn launch(bed: &Bed, container: &Container, adjust: ContainerAdjustment) -> Result<String> {
    let plugin = Plugin::join(&bed.node, "10", "adjusts", adjusts("", adjust)).await?;
    let pod = bed.cri.run(&Pod::new("adjusted")).await?;
    let id = bed.cri.launch(&pod, container).await?;
    drop(plugin);
    Ok(id)
}

#[test]
fn env_args_and_annotations() -> Result<()> {
    on_a_node(async |bed| {
        let adjust = ContainerAdjustment {
            env: vec![variable("NEW", "1"), variable("OLD", "changed"), variable("-GONE", "")],
            args: ["sh", "-c", ": from a plugin; sleep 1000; :"].map(str::to_owned).to_vec(),
            annotations: BTreeMap::from([("plugin.example/a".to_owned(), "b".to_owned())]),
            ..ContainerAdjustment::default()
        };
        let container = Container::idle("a", &busybox()).env("OLD", "x").env("GONE", "x");
        let id = launch(bed, &container, adjust).await?;
        assert_eq!(bed.cri.shell(&id, "echo $NEW $OLD ${GONE-gone}").await?, "1 changed gone");
        let args = bed.cri.shell(&id, "tr '\\0' ' ' < /proc/1/cmdline").await?;
        ensure!(args.contains("from a plugin"), "{args}");
        let info = bed.cri.container_details(&id).await?.info;
        ensure!(info["info"].contains("plugin.example/a"), "{info:?}");
        Ok(())
    })
}

#[test]
fn mounts_devices_and_hooks() -> Result<()> {
    on_a_node(async |bed| {
        let shown = bed.node.disk().join("shown");
        std::fs::create_dir(&shown)?;
        std::fs::write(shown.join("file"), "of the node")?;
        let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| Mount {
            destination: destination.into(),
            r#type: kind.into(),
            source: source.into(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
        };
        let source = shown.display().to_string();
        let adjust = ContainerAdjustment {
            mounts: vec![
                mount("/shown", "bind", &source, &["rbind", "ro"]),
                mount("/scratch", "tmpfs", "tmpfs", &["size=1m"]),
                mount("-/etc/hosts", "", "", &[]),
            ],
            hooks: Some(Hooks {
                start_container: vec![Hook {
                    path: "/bin/touch".into(),
                    args: vec!["touch".into(), "/tmp/hooked".into()],
                    ..Hook::default()
                }],
                ..Hooks::default()
            }),
            ..linux(LinuxContainerAdjustment {
                devices: vec![LinuxDevice {
                    path: "/dev/plugged".into(),
                    r#type: "c".into(),
                    major: 10,
                    minor: 229,
                    file_mode: Some(OptionalFileMode { value: 0o640 }),
                    uid: Some(OptionalUInt32 { value: 7 }),
                    gid: None,
                }],
                ..LinuxContainerAdjustment::default()
            })
        };
        let id = launch(bed, &Container::idle("a", &busybox()), adjust).await?;
        let cri = &bed.cri;
        assert_eq!(cri.shell(&id, "cat /shown/file").await?, "of the node");
        ensure!(cri.shell(&id, "touch /shown/x").await.is_err());
        assert_eq!(cri.shell(&id, "df -k /scratch | tail -1 | awk '{print $2}'").await?, "1024");
        ensure!(!cri.shell(&id, "cat /proc/mounts").await?.contains("/etc/hosts"));
        cri.shell(&id, "test -e /tmp/hooked").await?;
        assert_eq!(cri.shell(&id, "stat -c '%F %t:%T %a %u' /dev/plugged").await?, {
            "character special file a:e5 640 7"
        });
        // And it may be used.
        cri.shell(&id, ": < /dev/plugged").await?;
        Ok(())
    })
}

#[test]
fn limits_of_the_cgroup_and_of_the_process() -> Result<()> {
    on_a_node(async |bed| {
        let adjust = ContainerAdjustment {
            rlimits: vec![PosixRlimit { r#type: "RLIMIT_NOFILE".into(), hard: 300, soft: 200 }],
            ..linux(LinuxContainerAdjustment {
                resources: Some(LinuxResources {
                    memory: Some(LinuxMemory {
                        limit: Some(OptionalInt64 { value: 96 << 20 }),
                        reservation: Some(OptionalInt64 { value: 32 << 20 }),
                        swappiness: Some(OptionalUInt64 { value: 7 }),
                        ..LinuxMemory::default()
                    }),
                    cpu: Some(LinuxCpu {
                        shares: Some(OptionalUInt64 { value: 333 }),
                        quota: Some(OptionalInt64 { value: 40_000 }),
                        period: Some(OptionalUInt64 { value: 50_000 }),
                        cpus: "0".into(),
                        ..LinuxCpu::default()
                    }),
                    pids: Some(LinuxPids { limit: 77 }),
                    ..LinuxResources::default()
                }),
                oom_score_adj: Some(OptionalInt { value: 321 }),
                ..LinuxContainerAdjustment::default()
            })
        };
        let container = Container::idle("a", &busybox());
        let container = container.resources(|limits| limits.memory_limit_in_bytes = 64 << 20);
        let id = launch(bed, &container, adjust).await?;
        for (controller, file, value) in [
            ("memory", "memory.limit_in_bytes", "100663296"),
            ("memory", "memory.soft_limit_in_bytes", "33554432"),
            ("memory", "memory.swappiness", "7"),
            ("cpu", "cpu.shares", "333"),
            ("cpu", "cpu.cfs_quota_us", "40000"),
            ("cpu", "cpu.cfs_period_us", "50000"),
            ("cpuset", "cpuset.cpus", "0"),
            ("pids", "pids.max", "77"),
        ] {
            assert_eq!(cgroup(bed, &id, controller, file).await?, value, "{file}");
        }
        assert_eq!(bed.cri.shell(&id, "cat /proc/1/oom_score_adj").await?, "321");
        let open = "awk '/open files/ {print $4, $5}' /proc/1/limits";
        assert_eq!(bed.cri.shell(&id, open).await?, "200 300");
        // Status says what is true, and an update of something else leaves it so.
        let limits = bed.cri.container(&id).await?.resources.unwrap_or_default().linux;
        assert_eq!(limits.unwrap_or_default().memory_limit_in_bytes, 96 << 20);
        crate::resources::update(bed, &id, |limits| limits.cpu_shares = 444).await?;
        assert_eq!(cgroup(bed, &id, "cpu", "cpu.shares").await?, "444");
        assert_eq!(cgroup(bed, &id, "memory", "memory.limit_in_bytes").await?, "100663296");
        Ok(())
    })
}

#[test]
fn namespaces_sysctls_and_seccomp() -> Result<()> {
    on_a_node(async |bed| {
        let adjust = linux(LinuxContainerAdjustment {
            namespaces: vec![
                LinuxNamespace { r#type: "uts".into(), path: String::new() },
                LinuxNamespace { r#type: "ipc".into(), path: String::new() },
            ],
            sysctl: BTreeMap::from([("kernel.msgmax".to_owned(), "12345".to_owned())]),
            seccomp_policy: Some(LinuxSeccomp {
                default_action: "SCMP_ACT_ALLOW".into(),
                syscalls: vec![LinuxSyscall {
                    names: vec!["mkdir".into(), "mkdirat".into()],
                    action: "SCMP_ACT_ERRNO".into(),
                    errno_ret: Some(OptionalUInt32 { value: 38 }),
                    ..LinuxSyscall::default()
                }],
                ..LinuxSeccomp::default()
            }),
            ..LinuxContainerAdjustment::default()
        });
        let id = launch(bed, &Container::idle("a", &busybox()), adjust).await?;
        let cri = &bed.cri;
        assert_eq!(cri.shell(&id, "cat /proc/sys/kernel/msgmax").await?, "12345");
        let said = cri.shell(&id, "mkdir /tmp/x").await.map_err(|why| why.message().to_owned());
        ensure!(said.is_err_and(|why| why.contains("not implemented")));
        // It is none of its pod's.
        let pod = cri.pods().await?.remove(0);
        let pod = RunningPod { id: pod.id, config: Pod::new("adjusted").config() };
        let plain = cri.launch(&pod, &Container::idle("b", &busybox())).await?;
        let own = cri.shell(&id, "readlink /proc/1/ns/uts").await?;
        assert_ne!(own, cri.shell(&plain, "readlink /proc/1/ns/uts").await?);
        Ok(())
    })
}

#[test]
fn devices_by_name() -> Result<()> {
    let vendor = r#"{"cdiVersion": "0.6.0", "kind": "vendor.example/thing", "devices": [
        {"name": "one", "containerEdits": {"env": ["THING=one"]}}]}"#;
    let config = Config::default().file("cdi/vendor.json", vendor);
    on_a_node_with(config, &["busybox"], async |bed| {
        let adjust = ContainerAdjustment {
            cdi_devices: vec![CdiDevice { name: "vendor.example/thing=one".into() }],
            ..ContainerAdjustment::default()
        };
        let id = launch(bed, &Container::idle("a", &busybox()), adjust).await?;
        assert_eq!(bed.cri.shell(&id, "echo $THING").await?, "one");
        Ok(())
    })
}

/// What no node like this one can do, and the name of it.
fn impossible() -> Vec<(LinuxContainerAdjustment, &'static str)> {
    let resources =
        |resources| LinuxContainerAdjustment { resources: Some(resources), ..Default::default() };
    let class = || Some(OptionalString { value: "gold".into() });
    vec![
        (
            LinuxContainerAdjustment {
                io_priority: Some(LinuxIoPriority { class: 2, priority: 3 }),
                ..Default::default()
            },
            "linux.io_priority",
        ),
        (
            LinuxContainerAdjustment {
                scheduler: Some(LinuxScheduler { policy: 4, ..Default::default() }),
                ..Default::default()
            },
            "linux.scheduler",
        ),
        (
            LinuxContainerAdjustment {
                net_devices: [("eth9".to_owned(), LinuxNetDevice::default())].into(),
                ..Default::default()
            },
            "linux.net_devices",
        ),
        (
            LinuxContainerAdjustment {
                memory_policy: Some(LinuxMemoryPolicy { mode: 2, ..Default::default() }),
                ..Default::default()
            },
            "linux.memory_policy",
        ),
        (
            LinuxContainerAdjustment {
                rdt: Some(LinuxRdt { clos_id: class(), ..Default::default() }),
                ..Default::default()
            },
            "linux.rdt",
        ),
        (
            LinuxContainerAdjustment { cgroups_path: "/elsewhere".into(), ..Default::default() },
            "linux.cgroups_path",
        ),
        (
            resources(LinuxResources { blockio_class: class(), ..Default::default() }),
            "linux.resources.blockio_class",
        ),
        (
            resources(LinuxResources {
                hugepage_limits: vec![HugepageLimit { page_size: "3GB".into(), limit: 1 }],
                unified: [("memory.high".to_owned(), "1".to_owned())].into(),
                ..Default::default()
            }),
            "linux.resources.",
        ),
    ]
}

#[test]
fn what_the_node_cannot_do_is_refused_and_names_what() -> Result<()> {
    on_a_node(async |bed| {
        let pod = bed.cri.run(&bed.pod("cannot")).await?;
        for (number, (adjust, what)) in impossible().into_iter().enumerate() {
            let behaviour = adjusts("", linux(adjust));
            let plugin = Plugin::join(&bed.node, "10", "cannot", behaviour).await?;
            let container = Container::idle(&format!("c{number}"), &busybox());
            let why = bed.cri.create(&pod, &container).await.unwrap_err();
            ensure!(why.message().contains(what), "{what}: {why}");
            ensure!(matches!(why.code(), Code::Unimplemented | Code::InvalidArgument), "{why}");
            drop(plugin);
        }
        assert_eq!(bed.cri.containers().await?, []);
        Ok(())
    })
}

#[test]
fn two_plugins_that_set_the_same_fail_the_creation_by_name() -> Result<()> {
    on_a_node(async |bed| {
        let adjust = || ContainerAdjustment {
            env: vec![variable("SAME", "x")],
            ..ContainerAdjustment::default()
        };
        let one = Plugin::join(&bed.node, "10", "one", adjusts("a", adjust())).await?;
        let _two = Plugin::join(&bed.node, "20", "two", adjusts("a", adjust())).await?;
        let pod = bed.cri.run(&bed.pod("same")).await?;
        let container = Container::idle("a", &busybox());
        let why = bed.cri.create(&pod, &container).await.unwrap_err();
        ensure!(why.message().contains("10-one and 20-two both set Env \"SAME\""), "{why}");
        assert_eq!(why.code(), Code::InvalidArgument);
        // Who had it in hand is told that it is gone.
        one.hears("RemoveContainer").await?;
        drop(one);
        bed.cri.launch(&pod, &container).await?;
        Ok(())
    })
}
