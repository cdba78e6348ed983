//! What plugins adjust, made true in a container's spec. Pure: what has to be looked up is the
//! caller's (CDI devices, the sources of mounts).

use std::collections::BTreeMap;
use std::path::PathBuf;

use berth_nri::api::{
    ContainerAdjustment, Hook, KeyValue, LinuxContainerAdjustment, LinuxDevice, LinuxNamespace,
    LinuxRdt, LinuxResources, LinuxScheduler, LinuxSchedulerFlag, LinuxSeccomp, Mount, MpolFlag,
    PosixRlimit,
};
use berth_nri::removal;
use berth_oci::facts::{CgroupVersion, Extras, NodeFacts};
use berth_oci::{Spec, oom_score_adj, spec};
use berth_pod::Kind;
use berth_pod::record::Failure;

type Result<T> = std::result::Result<T, Failure>;

fn wrong<T>(field: &str, why: impl std::fmt::Display) -> Result<T> {
    Err(Failure::new(
        Kind::Invalid,
        format!("{field}: an NRI plugin asks for what cannot be: {why}"),
    ))
}

/// This node or this handler's OCI runtime cannot do it.
fn cannot<T>(field: &str, why: &str) -> Result<T> {
    let text = format!("{field}: an NRI plugin asks for it, and {why}");
    Err(Failure::new(Kind::Unimplemented, text))
}

/// What the node and the handler's OCI runtime can do.
#[derive(Clone, Copy)]
pub(crate) struct Able<'a> {
    pub(crate) node: &'a NodeFacts,
    pub(crate) extras: Extras,
}

/// Changes the spec, but for limits that are kept in the pod's record, and for CDI devices.
pub(crate) fn apply(spec: &mut Spec, adjust: ContainerAdjustment, able: Able<'_>) -> Result<()> {
    changed(&mut spec.annotations, adjust.annotations, |value| value);
    let process = spec.process.get_or_insert_default();
    env(&mut process.env, &adjust.env)?;
    if !adjust.args.is_empty() {
        process.args = adjust.args;
    }
    rlimits(&mut process.rlimits, adjust.rlimits)?;
    if let Some(hooks) = adjust.hooks {
        let to = &mut spec.hooks;
        for (list, new) in [
            (&mut to.prestart, hooks.prestart),
            (&mut to.create_runtime, hooks.create_runtime),
            (&mut to.create_container, hooks.create_container),
            (&mut to.start_container, hooks.start_container),
            (&mut to.poststart, hooks.poststart),
            (&mut to.poststop, hooks.poststop),
        ] {
            for hook in new {
                list.push(self::hook(hook)?);
            }
        }
    }
    mounts(spec, adjust.mounts)?;
    adjust.linux.map_or(Ok(()), |new| linux(spec, new, able))
}

/// A map with entries set, and those removed whose names begin with the mark.
fn changed<V, W>(map: &mut BTreeMap<String, V>, new: BTreeMap<String, W>, of: impl Fn(W) -> V) {
    for key in new.keys().filter_map(|key| removal(key)) {
        map.remove(key);
    }
    for (key, value) in new {
        if removal(&key).is_none() {
            map.insert(key, of(value));
        }
    }
}

fn env(env: &mut Vec<String>, new: &[KeyValue]) -> Result<()> {
    let is = |variable: &str, name: &str| variable.split('=').next() == Some(name);
    for KeyValue { key, value } in new {
        if let Some(gone) = removal(key) {
            env.retain(|variable| !is(variable, gone));
            continue;
        }
        if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
            return wrong("env", format_args!("the variable {key:?}"));
        }
        let text = format!("{key}={value}");
        match env.iter_mut().find(|variable| is(variable, key)) {
            Some(old) => *old = text,
            None => env.push(text),
        }
    }
    Ok(())
}

fn rlimits(limits: &mut Vec<spec::Rlimit>, new: Vec<PosixRlimit>) -> Result<()> {
    for PosixRlimit { r#type: kind, hard, soft } in new {
        if !kind.starts_with("RLIMIT_") || soft > hard {
            return wrong("rlimits", format_args!("{kind:?} of {soft}, at most {hard}"));
        }
        limits.retain(|old| old.kind != kind);
        limits.push(spec::Rlimit { kind, hard, soft });
    }
    Ok(())
}

fn absolute(field: &str, path: String) -> Result<PathBuf> {
    if !path.starts_with('/') || path.contains('\0') {
        return wrong(field, format_args!("{path:?} is no absolute path"));
    }
    Ok(PathBuf::from(path))
}

fn hook(hook: Hook) -> Result<spec::Hook> {
    let path = absolute("hooks", hook.path)?;
    let timeout = hook.timeout.map(|timeout| timeout.value);
    Ok(spec::Hook { path, args: hook.args, env: hook.env, timeout })
}

/// Each replaces the one at its place. Those that lie in others come after them.
fn mounts(spec: &mut Spec, new: Vec<Mount>) -> Result<()> {
    if new.is_empty() {
        return Ok(());
    }
    for mount in new {
        if let Some(gone) = removal(&mount.destination) {
            spec.mounts.retain(|old| old.destination.as_os_str() != gone);
            continue;
        }
        let destination = absolute("mounts", mount.destination)?;
        let bind = mount.options.iter().any(|option| option == "bind" || option == "rbind");
        let kind = if mount.r#type.is_empty() && bind { "bind".to_owned() } else { mount.r#type };
        let asks =
            |names: [&str; 2]| mount.options.iter().any(|option| names.contains(&option.as_str()));
        let widest = match (asks(["shared", "rshared"]), asks(["slave", "rslave"])) {
            (true, _) => "rshared",
            (false, true) => "rslave",
            (false, false) => "",
        };
        if widest == "rshared" || widest == "rslave" && spec.linux.rootfs_propagation.is_empty() {
            spec.linux.rootfs_propagation = widest.to_owned();
        }
        spec.mounts.retain(|old| old.destination != destination);
        spec.mounts.push(spec::Mount {
            destination,
            kind,
            source: PathBuf::from(mount.source),
            options: mount.options,
            ..spec::Mount::default()
        });
    }
    spec.mounts.sort_by_key(|mount| mount.destination.components().count());
    Ok(())
}

fn linux(spec: &mut Spec, new: LinuxContainerAdjustment, able: Able<'_>) -> Result<()> {
    devices(spec, new.devices)?;
    if let Some(resources) = new.resources {
        limits(spec, resources, able)?;
    }
    if !new.cgroups_path.is_empty() && new.cgroups_path != spec.linux.cgroups_path {
        let why = "a container's cgroup lies below its pod's, where it is found and ended: move the \
                   pod, by its cgroup_parent";
        return cannot("linux.cgroups_path", why);
    }
    namespaces(&mut spec.linux.namespaces, new.namespaces)?;
    changed(&mut spec.linux.sysctl, new.sysctl, |value| value);
    if let Some(policy) = new.seccomp_policy {
        if !able.node.seccomp {
            return cannot("linux.seccomp_policy", "this node's kernel has no seccomp");
        }
        spec.linux.seccomp = Some(seccomp(policy));
    }
    if let Some(score) = new.oom_score_adj {
        let value = oom_score_adj(score.value, able.node);
        let value = value.map_err(|why| Failure::new(why.kind(), why.to_string()))?;
        spec.process.get_or_insert_default().oom_score_adj = Some(value);
    }
    scheduling(spec, new.io_priority, new.scheduler, able)?;
    if new.net_devices.keys().any(|key| removal(key).is_none()) && !able.extras.net_devices {
        return cannot("linux.net_devices", NOT_ABLE);
    }
    changed(&mut spec.linux.net_devices, new.net_devices, |device| spec::NetDevice {
        name: device.name,
    });
    if let Some(policy) = new.memory_policy {
        if !able.extras.memory_policy {
            return cannot("linux.memory_policy", NOT_ABLE);
        }
        let flags = policy.flags().map(|flag: MpolFlag| flag.as_str_name().to_owned());
        spec.linux.memory_policy = Some(spec::MemoryPolicy {
            mode: policy.mode().as_str_name().to_owned(),
            flags: flags.collect(),
            nodes: policy.nodes,
        });
    }
    new.rdt.map_or(Ok(()), |rdt| self::rdt(spec, rdt, able))
}

/// Of an OCI runtime that would pass over it in silence.
const NOT_ABLE: &str = "the handler's OCI runtime does not say that it can do it: give the handler \
                        a newer one, or take the plugin away";

fn scheduling(
    spec: &mut Spec,
    io: Option<berth_nri::api::LinuxIoPriority>,
    cpu: Option<LinuxScheduler>,
    able: Able<'_>,
) -> Result<()> {
    let process = spec.process.get_or_insert_default();
    if (io.is_some() || cpu.is_some()) && !able.extras.scheduling {
        let field = if io.is_some() { "linux.io_priority" } else { "linux.scheduler" };
        return cannot(field, NOT_ABLE);
    }
    if let Some(io) = io {
        process.io_priority = Some(spec::IoPriority {
            class: io.class().as_str_name().to_owned(),
            priority: io.priority,
        });
    }
    if let Some(cpu) = cpu {
        let flags = cpu.flags().map(|flag: LinuxSchedulerFlag| flag.as_str_name().to_owned());
        process.scheduler = Some(spec::Scheduler {
            policy: cpu.policy().as_str_name().to_owned(),
            flags: flags.collect(),
            nice: cpu.nice,
            priority: cpu.priority,
            runtime: cpu.runtime,
            deadline: cpu.deadline,
            period: cpu.period,
        });
    }
    Ok(())
}

fn kind(letter: &str) -> Result<spec::DeviceKind> {
    match letter {
        "b" => Ok(spec::DeviceKind::Block),
        "c" | "u" => Ok(spec::DeviceKind::Char),
        "p" => Ok(spec::DeviceKind::Fifo),
        "a" | "" => Ok(spec::DeviceKind::All),
        _ => wrong("linux.devices", format_args!("type {letter:?}: it is b, c, u, p or a")),
    }
}

fn devices(spec: &mut Spec, new: Vec<LinuxDevice>) -> Result<()> {
    for device in new {
        if let Some(gone) = removal(&device.path) {
            spec.linux.devices.retain(|old| old.path.as_os_str() != gone);
            continue;
        }
        let (path, kind) = (absolute("linux.devices", device.path)?, kind(&device.r#type)?);
        if kind == spec::DeviceKind::All {
            return wrong("linux.devices", "a device of every type");
        }
        spec.linux.devices.retain(|old| old.path != path);
        spec.linux.devices.push(spec::LinuxDevice {
            path,
            kind,
            major: device.major,
            minor: device.minor,
            file_mode: device.file_mode.map(|mode| mode.value & 0o7777),
            uid: device.uid.map(|uid| uid.value),
            gid: device.gid.map(|gid| gid.value),
        });
        spec.linux.resources.devices.push(spec::DeviceRule {
            allow: true,
            kind: Some(kind),
            major: Some(device.major),
            minor: Some(device.minor),
            access: access(device.file_mode.map(|mode| mode.value)),
        });
    }
    Ok(())
}

/// What a node may be used for, by its permission bits: whatever one of them gives anybody.
fn access(mode: Option<u32>) -> String {
    let Some(mode) = mode else { return "rwm".to_owned() };
    let given = [("r", 0o444), ("w", 0o222)].into_iter().filter(|(_, bits)| mode & bits != 0);
    given.map(|(letter, _)| letter).chain(["m"]).collect()
}

/// The limits that pods' records do not have.
fn limits(spec: &mut Spec, new: LinuxResources, able: Able<'_>) -> Result<()> {
    let v1 = able.node.cgroup_version == CgroupVersion::V1;
    if let Some((name, _)) = super::limits::of_v1(&new).into_iter().find(|(_, set)| *set && !v1) {
        return cannot(&format!("linux.resources.{name}"), "cgroup v2 has no such limit");
    }
    let memory = new.memory.unwrap_or_default();
    let cpu = new.cpu.unwrap_or_default();
    let to = &mut spec.linux.resources;
    to.memory.reservation = memory.reservation.map(|v| v.value).or(to.memory.reservation);
    to.memory.kernel = memory.kernel.map(|v| v.value);
    to.memory.kernel_tcp = memory.kernel_tcp.map(|v| v.value);
    to.memory.swappiness = memory.swappiness.map(|v| v.value);
    to.memory.disable_oom_killer = memory.disable_oom_killer.map(|v| v.value);
    to.memory.use_hierarchy = memory.use_hierarchy.map(|v| v.value);
    to.cpu.realtime_runtime = cpu.realtime_runtime.map(|v| v.value);
    to.cpu.realtime_period = cpu.realtime_period.map(|v| v.value);
    if let Some(pids) = new.pids {
        to.pids = Some(spec::LinuxPids { limit: pids.limit });
    }
    for rule in new.devices {
        to.devices.push(spec::DeviceRule {
            allow: rule.allow,
            kind: Some(kind(&rule.r#type)?),
            major: rule.major.map(|v| v.value),
            minor: rule.minor.map(|v| v.value),
            access: rule.access,
        });
    }
    if new.blockio_class.is_some_and(|class| !class.value.is_empty()) {
        return cannot("linux.resources.blockio_class", "this node has no classes of block I/O");
    }
    match new.rdt_class {
        None => Ok(()),
        Some(class) => {
            let clos_id = Some(class).filter(|class| !class.value.is_empty());
            let remove = clos_id.is_none();
            rdt(spec, LinuxRdt { clos_id, remove, ..LinuxRdt::default() }, able)
        }
    }
}

fn rdt(spec: &mut Spec, new: LinuxRdt, able: Able<'_>) -> Result<()> {
    if new.remove {
        spec.linux.intel_rdt = None;
    }
    if new.clos_id.is_none() && new.schemata.is_none() && new.enable_monitoring.is_none() {
        return Ok(());
    }
    if !able.extras.rdt {
        return cannot("linux.rdt", NOT_ABLE);
    }
    let rdt = spec.linux.intel_rdt.get_or_insert_default();
    if let Some(class) = new.clos_id {
        rdt.clos_id = class.value;
    }
    if let Some(lines) = new.schemata {
        rdt.schemata = lines.value;
    }
    if let Some(monitoring) = new.enable_monitoring {
        rdt.enable_monitoring = monitoring.value;
    }
    Ok(())
}

fn namespaces(all: &mut Vec<spec::LinuxNamespace>, new: Vec<LinuxNamespace>) -> Result<()> {
    use spec::NamespaceKind as K;
    for one in new {
        let name = removal(&one.r#type).unwrap_or(&one.r#type);
        let kinds = [K::User, K::Pid, K::Network, K::Ipc, K::Uts, K::Mount, K::Cgroup];
        let Some(kind) =
            kinds.into_iter().find(|kind| super::describe::namespace_name(*kind) == name)
        else {
            return wrong("linux.namespaces", format_args!("a namespace of the kind {name:?}"));
        };
        all.retain(|old| old.kind != kind);
        if removal(&one.r#type).is_none() {
            let path = match one.path.is_empty() {
                true => None,
                false => Some(absolute("linux.namespaces", one.path)?),
            };
            all.push(spec::LinuxNamespace { kind, path });
        }
    }
    Ok(())
}

fn seccomp(policy: LinuxSeccomp) -> spec::Seccomp {
    let rules = policy.syscalls.into_iter().map(|rule| spec::SyscallRule {
        names: rule.names,
        action: rule.action,
        errno_ret: rule.errno_ret.map(|errno| errno.value),
        args: rule
            .args
            .into_iter()
            .map(|arg| spec::SyscallArg {
                index: arg.index,
                value: arg.value,
                value_two: arg.value_two,
                op: arg.op,
            })
            .collect(),
    });
    spec::Seccomp {
        default_action: policy.default_action,
        default_errno_ret: policy.default_errno.map(|errno| errno.value),
        architectures: policy.architectures,
        flags: policy.flags,
        listener_path: policy.listener_path,
        listener_metadata: policy.listener_metadata,
        syscalls: rules.collect(),
    }
}

#[cfg(test)]
mod tests;
