//! Configurations that a node can honour.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{Bed, busybox};
use berth_testkit::specs::{Container, Pod};
use cri::NamespaceMode;
use cri::security_profile::ProfileType;

use crate::dice::Dice;

/// What containers are shown of the node.
pub(super) struct Site {
    /// A directory with the file `file`.
    pub(super) volume: PathBuf,
    /// A seccomp profile that allows everything but `mkdir`.
    pub(super) profile: PathBuf,
}

/// What the file of the volume says.
pub(super) const TEXT: &str = "of the node\n";

/// As long as a host name may be.
const LONG_NAME: &str = "sixteen-letters-sixteen-letters-sixteen-letters-sixteen-letters";

impl Site {
    pub(super) fn make(bed: &Bed) -> Result<Self> {
        let (volume, profile) =
            (bed.node.disk().join("asked-for"), bed.node.disk().join("profile.json"));
        fs::create_dir_all(&volume)?;
        fs::write(volume.join("file"), TEXT)?;
        let filter = serde_json::json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
        });
        fs::write(&profile, filter.to_string())?;
        Ok(Self { volume, profile })
    }
}

fn some<T: Clone>(dice: &mut Dice, of: &[T]) -> Vec<T> {
    of.iter().filter(|_| dice.once_in(3)).cloned().collect()
}

fn words(dice: &mut Dice) -> Vec<String> {
    let all = ["plain", "with space", "", "ünïcode ☃", "$HOME `x` \\", "a=b", "line\nbreak"];
    some(dice, &all).into_iter().map(str::to_owned).collect()
}

fn pairs(dice: &mut Dice) -> std::collections::BTreeMap<String, String> {
    let keys = ["io.kubernetes.pod.name", "x", "example.com/deep.key"];
    some(dice, &keys).into_iter().map(|key| (key.to_owned(), words(dice).concat())).collect()
}

/// A pod.
pub(super) fn pod(dice: &mut Dice, base: Pod) -> Pod {
    let (node, own) = (NamespaceMode::Node, NamespaceMode::Pod);
    let network = dice.weighed(&[(4, own), (1, node)]);
    let ipc = dice.weighed(&[(4, own), (1, node)]);
    let pid = dice.weighed(&[(3, NamespaceMode::Container), (2, own), (1, node)]);
    let user = ipc == own && pid != node && dice.once_in(3);
    let first = 1_000_000 + 65536 * u32::try_from(dice.below(100)).unwrap_or(0);
    let privileged = !user && dice.once_in(5);
    let hostname = *dice.pick(&["a", "node-1.example", "under_score", LONG_NAME]);
    let mut pod = if user { base.user_namespace(first) } else { base };
    pod = pod
        .namespaces(|modes| {
            modes.network = network as i32;
            modes.ipc = ipc as i32;
            modes.pid = pid as i32;
        })
        .security(|security| security.privileged = privileged)
        .with(|config| hostname.clone_into(&mut config.hostname));
    if network == own {
        let all = [("net.ipv4.ip_local_port_range", "20000\t30000"), ("net/core/somaxconn", "77")];
        pod = some(dice, &all).into_iter().fold(pod, |pod, (key, value)| pod.sysctl(key, value));
    }
    if ipc == own {
        let all = [("kernel.shm_rmid_forced", "1"), ("kernel.msgmax", "4096")];
        pod = some(dice, &all).into_iter().fold(pod, |pod, (key, value)| pod.sysctl(key, value));
    }
    let dns = dice.once_in(2).then(|| cri::DnsConfig {
        servers: some(dice, &["198.51.100.7", "2001:db8::7", "fe80::1%eth0"].map(str::to_owned)),
        searches: some(dice, &["a.example", "b.example"].map(str::to_owned)),
        options: some(dice, &["ndots:5", "edns0"].map(str::to_owned)),
    });
    let (labels, annotations) = (pairs(dice), pairs(dice));
    pod.with(|config| {
        (config.dns_config, config.labels, config.annotations) = (dns, labels, annotations);
    })
}

/// A container of that pod.
pub(super) fn container(
    dice: &mut Dice,
    name: &str,
    pod: &cri::PodSandboxConfig,
    site: &Site,
) -> Container {
    let sandbox = pod.linux.clone().unwrap_or_default().security_context.unwrap_or_default();
    let options = sandbox.namespace_options.unwrap_or_default();
    let security = security(dice, sandbox.privileged, &options, site);
    let resources = dice.once_in(2).then(|| resources(dice));
    let mut container = Container::idle(name, &busybox());
    for _ in 0..dice.below(3) {
        let (key, value) = (*dice.pick(&["A", "B", "lower.dot", "A"]), words(dice).concat());
        container = container.env(key, &value);
    }
    container = mounts(dice, container, &options, site);
    let rooted = security.readonly_rootfs;
    let dirs =
        if rooted { &["", "/tmp", "/www/"][..] } else { &["", "/tmp", "/www/", "/made/for/it"] };
    container.with(|config| {
        (*dice.pick(dirs)).clone_into(&mut config.working_dir);
        config.args = words(dice);
        (config.labels, config.annotations) = (pairs(dice), pairs(dice));
        (config.tty, config.stdin) = (dice.once_in(4), dice.once_in(3));
        config.stdin_once = config.stdin && dice.once_in(2);
        config.stop_signal = *dice.pick(&[0, cri::Signal::Sigusr1 as i32]);
        if dice.once_in(3) {
            config.devices.push(cri::Device {
                container_path: "/dev/asked/for".to_owned(),
                host_path: "/dev/fuse".to_owned(),
                permissions: (*dice.pick(&["r", "rw", "mrw", "w"])).to_owned(),
            });
        }
        config.linux =
            Some(cri::LinuxContainerConfig { resources, security_context: Some(security) });
    })
}

fn mounts(
    dice: &mut Dice,
    mut container: Container,
    options: &cri::NamespaceOption,
    site: &Site,
) -> Container {
    for target in some(dice, &["/v", "/deep/er/v", "/tmp/v", "/etc/../srv"]) {
        let file = dice.once_in(3);
        let host = if file { site.volume.join("file") } else { site.volume.clone() };
        container = container.mount_with(host, target, |mount| {
            mount.readonly = dice.once_in(2);
            mount.recursive_read_only = mount.readonly && dice.once_in(2);
            mount.selinux_relabel = dice.once_in(4);
            if let Some(user) = options.userns_options.as_ref().filter(|_| dice.once_in(2)) {
                (mount.uid_mappings, mount.gid_mappings) = (user.uids.clone(), user.gids.clone());
            }
        });
    }
    container
}

fn security(
    dice: &mut Dice,
    privileged: bool,
    options: &cri::NamespaceOption,
    site: &Site,
) -> cri::LinuxContainerSecurityContext {
    let id =
        |dice: &mut Dice| Some(cri::Int64Value { value: *dice.pick(&[0, 33, 1000, 4242, 65534]) });
    let (run_as_user, run_as_username) = match dice.below(3) {
        0 => (None, ""),
        1 => (id(dice), ""),
        _ => (None, *dice.pick(&["root", "default-user", "www-data"])),
    };
    let named = run_as_user.is_some() || !run_as_username.is_empty();
    let run_as_group = if named && dice.once_in(2) { id(dice) } else { None };
    let mut modes = options.clone();
    if dice.once_in(3) {
        modes.pid = NamespaceMode::Container as i32;
    }
    let given = dice.once_in(2) || options.userns_options.is_some();
    let seccomp = |kind: ProfileType, path: String| {
        Some(cri::SecurityProfile { profile_type: kind as i32, localhost_ref: path })
    };
    cri::LinuxContainerSecurityContext {
        privileged: privileged && dice.once_in(2),
        capabilities: dice.once_in(2).then(|| capabilities(dice)),
        namespace_options: given.then_some(modes),
        run_as_user,
        run_as_group,
        run_as_username: run_as_username.to_owned(),
        supplemental_groups: some(dice, &[7, 1234, 50000]),
        supplemental_groups_policy: i32::from(dice.once_in(2)),
        readonly_rootfs: dice.once_in(3),
        no_new_privs: dice.once_in(2),
        masked_paths: some(dice, &["/etc/group", "/www/"].map(str::to_owned)),
        readonly_paths: some(dice, &["/home", "/proc/sys"].map(str::to_owned)),
        seccomp: match dice.below(4) {
            0 => None,
            1 => seccomp(ProfileType::Unconfined, String::new()),
            2 => seccomp(ProfileType::RuntimeDefault, String::new()),
            _ => seccomp(ProfileType::Localhost, site.profile.display().to_string()),
        },
        ..Default::default()
    }
}

fn capabilities(dice: &mut Dice) -> cri::Capability {
    let names = |of: &[&str]| of.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let mut list = |all: &[&str], every: u64| match dice.once_in(every) {
        true => names(&["ALL"]),
        false => some(dice, &names(all)),
    };
    cri::Capability {
        add_capabilities: list(&["NET_ADMIN", "CAP_SYS_PTRACE", "sys_time"], 8),
        drop_capabilities: list(&["CHOWN", "CAP_KILL", "NET_RAW"], 4),
        add_ambient_capabilities: list(&["NET_RAW", "NET_BIND_SERVICE", "SYS_PTRACE"], 20),
    }
}

fn resources(dice: &mut Dice) -> cri::LinuxContainerResources {
    let memory = *dice.pick(&[0, 64 << 20, 256 << 20]);
    let quota = *dice.pick(&[0, 20_000, 150_000]);
    cri::LinuxContainerResources {
        cpu_period: *dice.pick(&[0, 50_000, 100_000]),
        cpu_quota: quota,
        cpu_shares: *dice.pick(&[0, 2, 512, 4096]),
        memory_limit_in_bytes: memory,
        memory_swap_limit_in_bytes: if memory > 0 {
            memory + *dice.pick(&[0, 32 << 20])
        } else {
            0
        },
        oom_score_adj: *dice.pick(&[0, 100, 1000]),
        cpuset_cpus: (*dice.pick(&["", "0"])).to_owned(),
        cpuset_mems: (*dice.pick(&["", "0"])).to_owned(),
        ..Default::default()
    }
}
