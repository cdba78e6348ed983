//! Whole specs, compared byte for byte with files in `tests/golden`.
//!
//! After a change that is meant, `BERTH_GOLDEN=write cargo test -p berth-oci` writes them anew:
//! read the difference before committing it.

mod sample;

use std::path::Path;

use berth_oci::facts::{AppArmor, CgroupDriver, CgroupVersion};
use berth_oci::spec::{DeviceKind, Rlimit};
use berth_oci::{CapabilitySet, SandboxTask, Spec, container_spec, sandbox_spec};
use berth_pod::spec::{
    Device, IdMapping, ImageAsked, MountSource, PidMode, PodOrNode, Profile, Propagation,
    ResolvedUser, Resources, Selinux, StringMap,
};
use sample::{Sample, device, sample};

fn compare(name: &str, spec: &Spec) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.json"));
    let made = serde_json::to_string_pretty(spec).unwrap() + "\n";
    if std::env::var_os("BERTH_GOLDEN").is_some_and(|v| v == "write") {
        std::fs::write(&file, &made).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    if kept != made {
        let differs = kept.lines().zip(made.lines()).find(|(a, b)| a != b);
        panic!("{name} differs from {}: first {differs:?}\n{made}", file.display());
    }
    assert_eq!(&serde_json::from_str::<Spec>(&kept).unwrap(), spec, "{name} reads back");
}

fn container(name: &str, change: impl FnOnce(&mut Sample)) {
    let mut s = sample();
    change(&mut s);
    compare(name, &container_spec(&s.input()).unwrap());
}

#[test]
fn a_container_that_asks_for_nothing() {
    container("plain", |_| {});
}

#[test]
fn cgroup_v2_gives_a_cgroup_namespace() {
    container("cgroup-v2", |s| {
        s.node.cgroup_version = CgroupVersion::V2;
        s.spec.resources.memory_limit = 512 << 20;
        s.spec.resources.unified.insert("memory.high".to_owned(), "400000000".to_owned());
    });
}

#[test]
fn systemd_wants_a_slice_and_a_name() {
    container("systemd", |s| {
        s.node.cgroup_version = CgroupVersion::V2;
        s.node.cgroup_driver = CgroupDriver::Systemd;
        s.cgroup = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice".into();
    });
}

#[test]
fn a_privileged_container() {
    container("privileged", |s| {
        s.privileged();
        s.node.cgroup_version = CgroupVersion::V2;
        s.spec.security.seccomp = Profile::RuntimeDefault;
        s.spec.security.apparmor = Profile::RuntimeDefault;
        s.spec.security.drop_capabilities = vec!["NET_RAW".to_owned()];
        s.node.capabilities = CapabilitySet::from_bits(0x1ff_feff_ffff);
    });
}

#[test]
fn a_container_with_nothing_to_spare() {
    container("restricted", |s| {
        s.user = ResolvedUser { uid: 1000, gid: 1001, groups: vec![1002, 2000], home: None };
        s.spec.security.drop_capabilities = vec!["ALL".to_owned()];
        s.spec.security.add_ambient_capabilities = vec!["NET_BIND_SERVICE".to_owned()];
        s.spec.security.readonly_rootfs = true;
        s.spec.security.no_new_privs = true;
        s.spec.security.seccomp = Profile::RuntimeDefault;
        s.spec.security.masked_paths = vec!["/proc/kcore".to_owned()];
        s.spec.security.readonly_paths = vec!["/proc/sys/".to_owned()];
    });
}

#[test]
fn a_pod_in_a_user_namespace() {
    container("user-namespace", |s| {
        s.user_namespace();
        s.mount("/data", "/var/lib/kubelet/pods/1/volumes/kubernetes.io~empty-dir/data", |m| {
            let ids = vec![IdMapping { host_id: 1_000_000, container_id: 0, length: 65536 }];
            m.uid_mappings = ids.clone();
            m.gid_mappings = ids;
        });
    });
}

/// sysfs and mqueue belong to the namespaces of the host, which the mapped root may not mount.
#[test]
fn a_user_namespace_on_the_hosts_network_and_ipc() {
    container("user-namespace-host-network", |s| {
        s.user_namespace();
        s.pod.namespaces.network = PodOrNode::Node;
        s.pod.namespaces.ipc = PodOrNode::Node;
        s.pod.namespaces.user.as_mut().unwrap().gids[0].length = 5;
        s.files.shm = Some("/dev/shm".into());
    });
}

#[test]
fn the_hosts_own_namespaces() {
    container("host-namespaces", |s| {
        s.pod.namespaces.network = PodOrNode::Node;
        s.pod.namespaces.ipc = PodOrNode::Node;
        s.spec.security.pid = PidMode::Node;
        s.hostname = "node-1".to_owned();
        s.files.shm = Some("/dev/shm".into());
    });
}

#[test]
fn a_shared_pid_namespace() {
    container("shared-pid", |s| {
        s.spec.security.pid = PidMode::Pod;
        s.namespaces.pid = Some("/run/berth/bundles/pod/pidns".into());
    });
}

#[test]
fn the_pid_namespace_of_a_target() {
    container("target-pid", |s| {
        s.spec.security.pid = PidMode::Target("c1".to_owned());
        s.target_pid = Some("/proc/4711/ns/pid".into());
    });
}

#[test]
fn a_command_with_a_terminal() {
    container("terminal", |s| {
        s.spec.tty = true;
        s.spec.command = vec!["/bin/sh".to_owned()];
        s.spec.working_dir = "/opt//app/".to_owned();
        s.image.env = vec!["A=1".to_owned(), "HOME=/image".to_owned()];
        s.spec.envs = vec![
            ("B".to_owned(), "1".to_owned()),
            ("A".to_owned(), "x=y".to_owned()),
            ("B".to_owned(), String::new()),
        ];
        s.node.rlimits =
            vec![Rlimit { kind: "RLIMIT_NOFILE".to_owned(), hard: 1 << 20, soft: 1024 }];
    });
}

#[test]
fn mounts_of_every_sort() {
    container("mounts", |s| {
        s.mount("/data/deep", "/srv/deep", |_| {});
        s.mount("/data", "/srv/data", |m| m.readonly = true);
        s.mount("/etc/hosts", "/var/lib/kubelet/pods/1/etc-hosts", |_| {});
        s.mount("/twice", "/srv/first", |_| {});
        s.mount("/twice/", "/srv/second", |m| m.readonly = true);
        s.mount("/follow", "/mnt", |m| m.propagation = Propagation::HostToContainer);
        s.mount("/both", "/mnt", |m| m.propagation = Propagation::Bidirectional);
        s.mount("/frozen", "/srv/frozen", |m| {
            m.readonly = true;
            m.recursive_read_only = true;
        });
        s.mount("/image", "/var/lib/berth/images/mounts/1", |m| {
            m.source = MountSource::Image { image: ImageAsked::default(), sub_path: String::new() };
        });
        s.mount("/sys", "/sys", |m| m.readonly = true);
        s.image_volumes = vec![
            ("/var/lib/db".into(), "/var/lib/berth/containers/1/volumes/0".into()),
            ("/data".into(), "/var/lib/berth/containers/1/volumes/1".into()),
            ("/etc/resolv.conf".into(), "/var/lib/berth/containers/1/volumes/2".into()),
            ("/proc/x".into(), "/var/lib/berth/containers/1/volumes/3".into()),
        ];
    });
}

#[test]
fn devices_and_limits() {
    container("devices-and-limits", |s| {
        s.spec.devices = vec![
            Device {
                container_path: "/dev/fuse".into(),
                host_path: "/dev/fuse".into(),
                permissions: "mrw".to_owned(),
            },
            Device {
                container_path: "/dev/cards".into(),
                host_path: "/dev/dri".into(),
                permissions: "r".to_owned(),
            },
        ];
        s.devices = vec![
            vec![device("/dev/fuse", DeviceKind::Char, 10, 229)],
            vec![
                device("/dev/dri/card0", DeviceKind::Char, 226, 0),
                device("/dev/dri/by-path/x", DeviceKind::Char, 226, 128),
            ],
        ];
        s.spec.resources = Resources {
            cpu_period: 100_000,
            cpu_quota: 250_000,
            cpu_shares: 2560,
            memory_limit: 1 << 30,
            memory_swap_limit: 2 << 30,
            oom_score_adj: -997,
            cpuset_cpus: "0-3,7".to_owned(),
            cpuset_mems: "0".to_owned(),
            hugepages: [("2MB".to_owned(), 4 << 20), ("1GB".to_owned(), 0)].into(),
            unified: StringMap::new(),
        };
        s.node.pids_limit = Some(1024);
    });
}

#[test]
fn labels_and_annotations() {
    container("labels-and-annotations", |s| {
        s.node.selinux = true;
        s.node.apparmor = AppArmor::On { default_profile: Some("berth-default".to_owned()) };
        s.node.oom_floor = Some(-500);
        s.spec.resources.oom_score_adj = -997;
        s.pod.selinux = Some(Selinux { level: "s0:c1,c2".to_owned(), ..Selinux::default() });
        s.handler.pod_annotations = vec!["io.katacontainers.*".to_owned(), "io.k*".to_owned()];
        s.handler.container_annotations = vec!["dev.gvisor.one".to_owned()];
        for name in ["io.katacontainers.config.x", "io.kubernetes.cri.sandbox-id", "other"] {
            s.pod.annotations.insert(name.to_owned(), "from the pod".to_owned());
        }
        for name in ["dev.gvisor.one", "dev.gvisor.two"] {
            s.spec.annotations.insert(name.to_owned(), "from the container".to_owned());
        }
    });
}

fn sandbox(name: &str, as_task: bool, change: impl FnOnce(&mut Sample)) {
    let mut s = sample();
    change(&mut s);
    let cgroups_path = if as_task { "/kubepods/pod1234/sandbox" } else { "/kubepods/pod1234" };
    let task = SandboxTask {
        cgroups_path,
        rootfs: Path::new("/run/berth/bundles/pod/rootfs"),
        image: "",
        as_task,
    };
    compare(name, &sandbox_spec(&s.pod_input(), &task).unwrap());
}

#[test]
fn a_sandbox_without_a_process() {
    sandbox("sandbox", false, |_| {});
}

#[test]
fn a_sandbox_that_shares_its_pid_namespace() {
    sandbox("sandbox-shared-pid", false, |s| {
        s.user_namespace();
        s.pod.namespaces.pid = PidMode::Pod;
        s.pod.sysctls.insert("net.core.somaxconn".to_owned(), "1024".to_owned());
        s.pod.resources =
            Some(Resources { cpu_quota: 5000, memory_limit: 1 << 30, ..Resources::default() });
    });
}

#[test]
fn a_sandbox_run_as_a_task_on_the_hosts_network() {
    sandbox("sandbox-task", true, |s| {
        s.pod.namespaces.network = PodOrNode::Node;
        s.node.seccomp = false;
    });
}
