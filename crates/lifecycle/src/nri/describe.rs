//! Pods and containers as plugins see them.

use std::path::Path;

use berth_nri::api::{
    CdiDevice, Container, ContainerState, Hook, Hooks, Image, LinuxContainer, LinuxCpu,
    LinuxDevice, LinuxDeviceCgroup, LinuxMemory, LinuxNamespace, LinuxPids, LinuxPodSandbox,
    LinuxResources, LinuxSeccomp, LinuxSeccompArg, LinuxSyscall, Mount, OptionalFileMode,
    OptionalInt, OptionalInt64, OptionalUInt32, OptionalUInt64, PodSandbox, PosixRlimit,
    SecurityProfile, User, security_profile::ProfileType,
};
use berth_oci::Spec;
use berth_oci::spec::{self, DeviceKind, NamespaceKind};
use berth_pod::record::{ContainerRecord, PodRecord};
use berth_pod::spec::{ContainerSpec, Profile};

use super::limits::shown;

/// A pod, as far as it has come.
pub(crate) fn pod(record: &PodRecord) -> PodSandbox {
    let spec = &record.spec.spec;
    let (resources, namespaces) = (record.resources(), record.namespaces.held());
    let mut pinned = Vec::new();
    if let Some(held) = namespaces {
        let all = [("network", &held.net), ("ipc", &held.ipc), ("uts", &held.uts)];
        for (kind, path) in all.into_iter().chain([("user", &held.user)]) {
            pinned.extend(path.as_deref().map(|path| namespace(kind, path)));
        }
    }
    let sandbox = record.sandbox.held();
    let pid_ns = sandbox.and_then(|sandbox| sandbox.pid_ns.as_deref());
    pinned.extend(pid_ns.map(|path| namespace("pid", path)));
    let ips = record.network.held().map(|network| &network.ips);
    PodSandbox {
        id: record.id.to_string(),
        name: spec.name.name.clone(),
        uid: spec.name.uid.clone(),
        namespace: spec.name.namespace.clone(),
        labels: spec.labels.clone(),
        annotations: spec.annotations.clone(),
        runtime_handler: spec.handler.clone(),
        linux: Some(LinuxPodSandbox {
            pod_overhead: resources.overhead.as_ref().map(shown),
            pod_resources: resources.containers.as_ref().map(shown),
            cgroup_parent: spec.cgroup_parent.clone().unwrap_or_default(),
            cgroups_path: record.cgroup.held().map(|c| c.path.clone()).unwrap_or_default(),
            namespaces: pinned,
            resources: None,
        }),
        pid: sandbox.and_then(|sandbox| sandbox.pid).unwrap_or_default(),
        ips: ips.into_iter().flatten().map(ToString::to_string).collect(),
    }
}

fn namespace(kind: &str, path: &Path) -> LinuxNamespace {
    LinuxNamespace { r#type: kind.to_owned(), path: text(path) }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A container, as far as it has come, with what its bundle says where there is one.
pub(crate) fn container(pod: &PodRecord, c: &ContainerRecord, config: Option<&Spec>) -> Container {
    let asked = &c.spec.spec;
    let mut shown = config.map_or_else(|| bare(asked), of_config);
    // A plugin may have set them otherwise.
    for (key, value) in &asked.annotations {
        shown.annotations.entry(key.clone()).or_insert_with(|| value.clone());
    }
    let linux = shown.linux.get_or_insert_default();
    linux.seccomp_profile = profile(&asked.security.seccomp);
    let state = match (c.exit.is_some(), c.running()) {
        (true, _) => ContainerState::ContainerStopped,
        (false, true) => ContainerState::ContainerRunning,
        (false, false) => ContainerState::ContainerCreated,
    };
    let image = c.image.held().map(|held| &held.facts);
    let ended = c.exit.as_ref();
    Container {
        id: c.id.to_string(),
        pod_sandbox_id: pod.id.to_string(),
        name: asked.name.name.clone(),
        state: state.into(),
        labels: asked.labels.clone(),
        pid: c.task.held().filter(|_| c.running()).map(|task| task.pid).unwrap_or_default(),
        created_at: c.created_at,
        started_at: c.started_at.unwrap_or_default(),
        finished_at: ended.map(|exit| exit.at).unwrap_or_default(),
        exit_code: ended.map(|exit| exit.code).unwrap_or_default(),
        status_reason: ended.map(|exit| exit.reason.clone()).unwrap_or_default(),
        status_message: ended.map(|exit| exit.message.clone()).unwrap_or_default(),
        cdi_devices: asked
            .cdi_devices
            .iter()
            .map(|name| CdiDevice { name: name.clone() })
            .collect(),
        image: image.map(|facts| Image {
            name: asked.image.user_specified.clone(),
            digest: facts.image_ref.clone(),
            config_digest: facts.id.clone(),
        }),
        ..shown
    }
}

/// What is known of a container without a bundle.
fn bare(asked: &ContainerSpec) -> Container {
    Container {
        args: asked.command.iter().chain(&asked.args).cloned().collect(),
        env: asked.envs.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        linux: Some(LinuxContainer {
            resources: Some(shown(&asked.resources)),
            ..LinuxContainer::default()
        }),
        ..Container::default()
    }
}

fn profile(profile: &Profile) -> Option<SecurityProfile> {
    let (kind, localhost_ref) = match profile {
        Profile::Unset => return None,
        Profile::RuntimeDefault => (ProfileType::RuntimeDefault, String::new()),
        Profile::Unconfined => (ProfileType::Unconfined, String::new()),
        Profile::Localhost(path) => (ProfileType::Localhost, path.clone()),
    };
    Some(SecurityProfile { profile_type: kind.into(), localhost_ref })
}

/// What a bundle says of its container.
fn of_config(config: &Spec) -> Container {
    let process = config.process.clone().unwrap_or_default();
    let rlimits = process.rlimits.iter();
    Container {
        annotations: config.annotations.clone(),
        args: process.args,
        env: process.env,
        mounts: config.mounts.iter().map(mount).collect(),
        hooks: Some(hooks(&config.hooks)),
        rlimits: rlimits
            .map(|l| PosixRlimit { r#type: l.kind.clone(), hard: l.hard, soft: l.soft })
            .collect(),
        user: Some(User {
            uid: process.user.uid,
            gid: process.user.gid,
            additional_gids: process.user.additional_gids,
        }),
        linux: Some(linux(config, process.oom_score_adj)),
        ..Container::default()
    }
}

fn linux(config: &Spec, oom_score_adj: Option<i32>) -> LinuxContainer {
    let linux = &config.linux;
    let namespaces = linux.namespaces.iter();
    LinuxContainer {
        namespaces: namespaces
            .map(|one| LinuxNamespace {
                r#type: namespace_name(one.kind).to_owned(),
                path: one.path.as_deref().map(text).unwrap_or_default(),
            })
            .collect(),
        devices: linux.devices.iter().map(device).collect(),
        resources: Some(resources(&linux.resources)),
        oom_score_adj: oom_score_adj.map(|value| OptionalInt { value: value.into() }),
        cgroups_path: linux.cgroups_path.clone(),
        seccomp_policy: linux.seccomp.as_ref().map(seccomp),
        sysctl: linux.sysctl.clone(),
        ..LinuxContainer::default()
    }
}

fn mount(mount: &spec::Mount) -> Mount {
    Mount {
        destination: text(&mount.destination),
        r#type: mount.kind.clone(),
        source: text(&mount.source),
        options: mount.options.clone(),
    }
}

fn hooks(hooks: &spec::Hooks) -> Hooks {
    let all = |list: &[spec::Hook]| {
        let one = |hook: &spec::Hook| Hook {
            path: text(&hook.path),
            args: hook.args.clone(),
            env: hook.env.clone(),
            timeout: hook.timeout.map(|value| OptionalInt { value }),
        };
        list.iter().map(one).collect()
    };
    Hooks {
        prestart: all(&hooks.prestart),
        create_runtime: all(&hooks.create_runtime),
        create_container: all(&hooks.create_container),
        start_container: all(&hooks.start_container),
        poststart: all(&hooks.poststart),
        poststop: all(&hooks.poststop),
    }
}

/// A namespace's kind, in the words of OCI.
pub(super) fn namespace_name(kind: NamespaceKind) -> &'static str {
    match kind {
        NamespaceKind::User => "user",
        NamespaceKind::Pid => "pid",
        NamespaceKind::Network => "network",
        NamespaceKind::Ipc => "ipc",
        NamespaceKind::Uts => "uts",
        NamespaceKind::Mount => "mount",
        NamespaceKind::Cgroup => "cgroup",
    }
}

fn letter(kind: DeviceKind) -> &'static str {
    match kind {
        DeviceKind::All => "a",
        DeviceKind::Block => "b",
        DeviceKind::Char => "c",
        DeviceKind::Fifo => "p",
    }
}

fn device(device: &spec::LinuxDevice) -> LinuxDevice {
    LinuxDevice {
        path: text(&device.path),
        r#type: letter(device.kind).to_owned(),
        major: device.major,
        minor: device.minor,
        file_mode: device.file_mode.map(|value| OptionalFileMode { value }),
        uid: device.uid.map(|value| OptionalUInt32 { value }),
        gid: device.gid.map(|value| OptionalUInt32 { value }),
    }
}

fn resources(all: &spec::LinuxResources) -> LinuxResources {
    let signed = |value: Option<i64>| value.map(|value| OptionalInt64 { value });
    let unsigned = |value: Option<u64>| value.map(|value| OptionalUInt64 { value });
    let (memory, cpu) = (&all.memory, &all.cpu);
    let rules = all.devices.iter().map(|rule| LinuxDeviceCgroup {
        allow: rule.allow,
        r#type: rule.kind.map(letter).unwrap_or_default().to_owned(),
        major: signed(rule.major),
        minor: signed(rule.minor),
        access: rule.access.clone(),
    });
    let pages = all.hugepage_limits.iter();
    LinuxResources {
        memory: Some(LinuxMemory {
            limit: signed(memory.limit),
            swap: signed(memory.swap),
            ..LinuxMemory::default()
        }),
        cpu: Some(LinuxCpu {
            shares: unsigned(cpu.shares),
            quota: signed(cpu.quota),
            period: unsigned(cpu.period),
            cpus: cpu.cpus.clone(),
            mems: cpu.mems.clone(),
            ..LinuxCpu::default()
        }),
        hugepage_limits: pages
            .map(|one| berth_nri::api::HugepageLimit {
                page_size: one.page_size.clone(),
                limit: one.limit,
            })
            .collect(),
        unified: all.unified.clone(),
        devices: rules.collect(),
        pids: all.pids.map(|pids| LinuxPids { limit: pids.limit }),
        ..LinuxResources::default()
    }
}

fn seccomp(filter: &spec::Seccomp) -> LinuxSeccomp {
    let errno = |value: Option<u32>| value.map(|value| OptionalUInt32 { value });
    let argument = |arg: &spec::SyscallArg| LinuxSeccompArg {
        index: arg.index,
        value: arg.value,
        value_two: arg.value_two,
        op: arg.op.clone(),
    };
    let rules = filter.syscalls.iter().map(|rule| LinuxSyscall {
        names: rule.names.clone(),
        action: rule.action.clone(),
        errno_ret: errno(rule.errno_ret),
        args: rule.args.iter().map(argument).collect(),
    });
    LinuxSeccomp {
        default_action: filter.default_action.clone(),
        default_errno: errno(filter.default_errno_ret),
        architectures: filter.architectures.clone(),
        flags: filter.flags.clone(),
        listener_path: filter.listener_path.clone(),
        listener_metadata: filter.listener_metadata.clone(),
        syscalls: rules.collect(),
    }
}
