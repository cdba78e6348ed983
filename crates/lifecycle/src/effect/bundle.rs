//! The container's bundle: what its mounts and devices are is asked in a process of its own, then
//! config.json is written.

use std::fs::{File, Permissions, set_permissions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_oci::facts::{
    AppArmor, CheckedMount, ContainerInput, DeviceNode, PodFiles, PodInput, SourcePropagation,
};
use berth_oci::spec::{DeviceKind, Seccomp};
use berth_oci::{Spec, container_spec, is_loaded, mount_label, parse_profile, to_json};
use berth_pod::record::ContainerFact;
use berth_pod::spec::{
    ContainerSpec, Mount, MountSource, PidMode, Profile, Propagation, Resources, SandboxSpec,
};
use berth_pod::{ContainerId, Kind};
use serde_json::{Value, json};

use super::{Context, Result, Trouble, blocking, cdi, failed, files, helper, restore, volumes};
use crate::convert::Fail as _;
use crate::nri;

/// What the OCI runtime reads.
pub(super) const CONFIG: &str = "config.json";

/// Where the shim mounts the root file system, in the bundle: its whole path in each config.json would
/// only be longer.
pub(super) const ROOTFS: &str = "rootfs";

/// How long strangers' mounts below a bundle may take to be detached.
const UNMOUNT: Duration = Duration::from_secs(10);

/// The profiles that are loaded.
const APPARMOR_PROFILES: &str = "/sys/kernel/security/apparmor/profiles";

/// How long the files of a container's volumes may take to be relabelled: millions of them take long.
const RELABEL: Duration = Duration::from_secs(120);

/// The largest seccomp profile; the default one has 12 KiB.
const PROFILE: u64 = 1 << 20;

pub(super) async fn acquire(context: &Context, id: &ContainerId) -> Result<ContainerFact> {
    let spec = &context.container(id)?.spec.spec;
    let found = context.abortable(stat(context, spec)).await?;
    let (of_mounts, of_devices) = found.split_at(found.len().saturating_sub(spec.devices.len()));
    let mounts = mounts(context, id, of_mounts)?;
    let devices = devices(spec, of_devices)?;
    confined(context, spec).await?;
    let seccomp = context.abortable(seccomp(context, spec)).await?;
    let cdi = context.abortable(cdi::find(context, &spec.cdi_devices)).await?;
    let looked_up = LookedUp { mounts: &mounts, devices: &devices, seccomp: seccomp.as_ref(), cdi };
    let mut spec = spec_of(context, id, &looked_up)?;
    let limits = context.abortable(adjust(context, id, &mut spec)).await?;
    let config = match &context.handler()?.base_spec {
        Some(base) => berth_oci::over_base(base, &spec)?,
        None => to_json(&spec)?,
    };
    restore::check(context, id, &config)?;
    let bundle = context.layout().bundle(id.as_str());
    let group = group(&context.record.spec.spec);
    blocking(move || write(&bundle, &config, group).and_then(|()| make_rootfs(&bundle))).await?;
    volumes::acquire(context, id, &mounts).await?;
    Ok(ContainerFact::Bundle(limits))
}

/// What was found out about what a container asks for.
struct LookedUp<'a> {
    mounts: &'a [CheckedMount],
    devices: &'a [Vec<DeviceNode>],
    seccomp: Option<&'a Seccomp>,
    cdi: Option<cdi::Found>,
}

/// Has plugins adjust a container, and gives its limits if they have changed those.
async fn adjust(
    context: &Context,
    id: &ContainerId,
    spec: &mut Spec,
) -> Result<Option<Box<Resources>>> {
    let adjusted = nri::create_container(context, context.container(id)?, spec).await?;
    if let Some(cdi) = cdi::find(context, &adjusted.cdi_devices()).await? {
        cdi.edits.apply(spec, &cdi.nodes)?;
    }
    let binds: Vec<_> = adjusted.binds().collect();
    let paths = binds.iter().map(|(path, ..)| json!({"path": path, "want": "any"}));
    for ((path, shared, slave), found) in binds.iter().zip(ask(context, paths.collect()).await?) {
        if found["exists"] != Value::Bool(true) {
            let text = format!("mounts: an NRI plugin asks for {path}, which does not exist");
            return failed(Kind::Invalid, text);
        }
        let on = found["propagation"].as_str().unwrap_or_default();
        if *shared && on != "shared" || *slave && on != "shared" && on != "slave" {
            let text = format!(
                "mounts: an NRI plugin asks for {path}, which lies on a mount that passes nothing on"
            );
            return failed(Kind::Invalid, text);
        }
    }
    let limits = adjusted.limits.clone();
    adjusted.apply(context, spec)?;
    Ok(limits)
}

fn spec_of(context: &Context, id: &ContainerId, looked_up: &LookedUp<'_>) -> Result<Spec> {
    let (record, layout) = (&context.record, context.layout());
    let c = context.container(id)?;
    let Some(image) = c.image.held() else { return failed(Kind::Broken, "the image is not held") };
    let namespaces = layout.namespaces(&record.id, &record.spec.spec);
    let Some(files) = record.files.held() else {
        return failed(Kind::Broken, "the pod's files are not held");
    };
    let files = PodFiles {
        resolv_conf: Some(files.resolv_conf.clone()),
        hostname: Some(files.hostname.clone()),
        hosts: Some(files.hosts.clone()),
        shm: Some(files.shm.clone()),
    };
    let node = super::cgroup::node(context);
    let cgroup = record.cgroup.held().map(|c| c.path.clone()).unwrap_or_default();
    let mut spec = c.spec.spec.clone();
    spec.resources = c.resources.clone();
    let target = target(context, &spec)?;
    let handler = context.handler()?;
    let input = ContainerInput {
        id,
        pod: PodInput {
            id: &record.id,
            spec: &record.spec.spec,
            hostname: layout.hostname(&record.spec.spec),
            namespaces: &namespaces,
            files: &files,
            cgroup: &cgroup,
            handler: &handler.facts,
            node: &node,
        },
        spec: &spec,
        image: &image.facts,
        user: &image.user,
        rootfs: ROOTFS.as_ref(),
        mounts: looked_up.mounts,
        image_volumes: &[],
        devices: looked_up.devices,
        seccomp: looked_up.seccomp,
        target_pid: target.as_deref(),
    };
    let mut spec = container_spec(&input)?;
    if let Some(cdi) = &looked_up.cdi {
        cdi.edits.apply(&mut spec, &cdi.nodes)?;
    }
    Ok(spec)
}

/// The PID namespace of the container that this one is to look into.
fn target(context: &Context, spec: &ContainerSpec) -> Result<Option<PathBuf>> {
    let PidMode::Target(target) = &spec.security.pid else { return Ok(None) };
    let found = context.record.containers.values().find(|c| c.id.as_str() == target);
    match found.and_then(|c| c.task.held().filter(|_| c.running())) {
        Some(task) => Ok(Some(PathBuf::from(format!("/proc/{}/ns/pid", task.pid)))),
        None => failed(
            Kind::Invalid,
            format!("namespace_options.target_id: container {target:?} does not run in this pod"),
        ),
    }
}

/// What is at each mount's source and each device's path, in order.
async fn stat(context: &Context, spec: &ContainerSpec) -> Result<Vec<Value>> {
    let source = |m: &Mount| match &m.source {
        MountSource::Host(path) => Some(json!({"path": path, "want": "any"})),
        MountSource::Image { .. } => None,
    };
    let mut paths: Vec<Value> = spec.mounts.iter().filter_map(source).collect();
    paths.extend(spec.devices.iter().map(|d| json!({"path": d.host_path, "want": "device"})));
    ask(context, paths).await
}

/// Has a process look at these paths.
pub(super) async fn ask(context: &Context, paths: Vec<Value>) -> Result<Vec<Value>> {
    if paths.is_empty() {
        return Ok(Vec::new());
    }
    let (asked, deadline) = (paths.len(), context.settings().stat_deadline);
    let answer = match helper::call(context, "stat", &json!({"paths": paths}), deadline).await {
        // One of these hangs, and the helper was killed before it could say which.
        Err(Trouble::Failed(failure)) => {
            let named: Vec<_> = paths.iter().filter_map(|one| one["path"].as_str()).collect();
            let text = format!("look at {}: {}", named.join(", "), failure.message);
            return failed(failure.kind, text);
        }
        answer => answer?,
    };
    match answer["paths"].as_array() {
        Some(found) if found.len() == asked => Ok(found.clone()),
        _ => failed(Kind::Broken, format!("berth-helper stat answered {answer}")),
    }
}

/// `found` is about those of host paths, in order.
fn mounts(context: &Context, id: &ContainerId, found: &[Value]) -> Result<Vec<CheckedMount>> {
    let mut found = found.iter();
    let mut checked = Vec::new();
    for (number, mount) in context.container(id)?.spec.spec.mounts.iter().enumerate() {
        let staged = || volumes::place(context, id, number);
        checked.push(match &mount.source {
            MountSource::Image { .. } => CheckedMount {
                source: staged(),
                propagation: SourcePropagation::Private,
                id_mapped: true,
                alone: false,
            },
            MountSource::Host(path) => {
                let found = found.next().unwrap_or(&Value::Null);
                let (propagation, alone) = (there(mount, path, found)?, found["kind"] != "dir");
                let id_mapped = volumes::is_staged(context, mount)?;
                let source = if id_mapped { staged() } else { path.clone() };
                CheckedMount { source, propagation, id_mapped, alone }
            }
        });
    }
    Ok(checked)
}

/// A host path must be there, and lie on a mount that passes on what is asked for.
fn there(mount: &Mount, path: &Path, found: &Value) -> Result<SourcePropagation> {
    let at = mount.container_path.display();
    if found["exists"] != Value::Bool(true) {
        let problem = found["problem"]
            .as_str()
            .map_or_else(|| format!("{} does not exist", path.display()), str::to_owned);
        let text = format!("mounts: the host path of {at} cannot be used: {problem}");
        return failed(Kind::Invalid, text);
    }
    let propagation = match found["propagation"].as_str() {
        Some("shared") => SourcePropagation::Shared,
        Some("slave") => SourcePropagation::Slave,
        _ => SourcePropagation::Private,
    };
    enough(mount, propagation)?;
    Ok(propagation)
}

/// A mount that is to send or receive others must lie on one that does.
fn enough(mount: &Mount, on: SourcePropagation) -> Result<()> {
    let wanted = match (mount.propagation, on) {
        (Propagation::Bidirectional, SourcePropagation::Shared)
        | (Propagation::HostToContainer, SourcePropagation::Shared | SourcePropagation::Slave)
        | (Propagation::Private, _) => return Ok(()),
        (Propagation::Bidirectional, _) => "shared",
        (Propagation::HostToContainer, _) => "shared or slave",
    };
    let is = if on == SourcePropagation::Slave { "slave" } else { "private" };
    let at = mount.container_path.display();
    failed(
        Kind::Invalid,
        format!(
            "mounts: the source of {at} lies on a {is} mount, and must lie on one that is {wanted}: `mount --make-rshared` it"
        ),
    )
}

fn devices(spec: &ContainerSpec, found: &[Value]) -> Result<Vec<Vec<DeviceNode>>> {
    let mut all = Vec::new();
    for (device, found) in spec.devices.iter().zip(found) {
        let nodes = found["devices"].as_array().cloned().unwrap_or_else(|| vec![found.clone()]);
        let nodes: Option<Vec<_>> =
            nodes.iter().map(|node| self::node(&device.host_path, node)).collect();
        match nodes.filter(|nodes| !nodes.is_empty()) {
            Some(nodes) => all.push(nodes),
            None => {
                let path = device.host_path.display();
                return failed(Kind::Invalid, format!("devices: {path} is no device of this node"));
            }
        }
    }
    Ok(all)
}

pub(super) fn node(asked: &Path, found: &Value) -> Option<DeviceNode> {
    let kind = match found["kind"].as_str()? {
        "char" => DeviceKind::Char,
        "block" => DeviceKind::Block,
        "fifo" => DeviceKind::Fifo,
        _ => return None,
    };
    let number = |key: &str| found[key].as_u64().and_then(|n| u32::try_from(n).ok());
    Some(DeviceNode {
        path: found["path"].as_str().map_or_else(|| asked.to_owned(), PathBuf::from),
        kind,
        major: found["major"].as_i64().unwrap_or_default(),
        minor: found["minor"].as_i64().unwrap_or_default(),
        mode: number("mode").unwrap_or(0o666) & 0o7777,
        uid: number("uid").unwrap_or_default(),
        gid: number("gid").unwrap_or_default(),
    })
}

/// An AppArmor profile that is not loaded is said here, and volumes are relabelled for SELinux.
async fn confined(context: &Context, spec: &ContainerSpec) -> Result<()> {
    let node = &context.settings().node;
    if let (Profile::Localhost(name), AppArmor::On { .. }) =
        (&spec.security.apparmor, &node.apparmor)
    {
        let list = blocking(|| Ok(std::fs::read_to_string(APPARMOR_PROFILES).ok())).await?;
        if list.is_some_and(|list| !is_loaded(&list, name)) {
            let text = format!(
                "security_context.apparmor: the profile {name:?} is not loaded on this node: load \
                 it with apparmor_parser"
            );
            return failed(Kind::Invalid, text);
        }
    }
    let label = mount_label(spec, &context.record.spec.spec, node);
    let path = |mount: &Mount| match &mount.source {
        MountSource::Host(path) if mount.selinux_relabel => Some(path.clone()),
        _ => None,
    };
    let paths: Vec<PathBuf> = spec.mounts.iter().filter_map(path).collect();
    if label.is_empty() || paths.is_empty() {
        return Ok(());
    }
    let request = json!({"paths": paths, "label": label});
    context.abortable(helper::call(context, "relabel", &request, RELABEL)).await.map(drop)
}

async fn seccomp(context: &Context, spec: &ContainerSpec) -> Result<Option<Seccomp>> {
    let Profile::Localhost(path) = &spec.security.seccomp else { return Ok(None) };
    if spec.security.privileged {
        return Ok(None);
    }
    let (request, deadline) =
        (json!({"path": path, "limit": PROFILE}), context.settings().stat_deadline);
    let answer = match helper::call(context, "read", &request, deadline).await {
        Err(Trouble::Failed(failure)) => {
            let kind = match failure.kind {
                Kind::NotFound => Kind::Invalid,
                kind => kind,
            };
            let why = failure.message;
            let text = format!("security_context.seccomp: cannot read the profile {path}: {why}");
            return failed(kind, text);
        }
        answer => answer?,
    };
    let profile = answer["content"].as_str().unwrap_or_default();
    Ok(Some(parse_profile(path, profile.as_bytes())?))
}

/// Makes the bundle, or makes it again over what an earlier try left.
///
/// Users of the node must not come to the root file system, whose set-uid programs they could run.
/// The OCI runtime of a pod with a user namespace goes there as that namespace's root: `group`.
pub(super) fn write(bundle: &Path, config: &[u8], group: Option<u32>) -> Result<()> {
    make_closed(bundle, group)?;
    replace(&bundle.join(CONFIG), config)
}

/// Makes a directory that no user of the node passes but a pod's root: what a container has written
/// into it may be a program with set-uid bits.
pub(super) fn make_closed(directory: &Path, group: Option<u32>) -> Result<()> {
    std::fs::create_dir_all(directory).map_err(|e| ("make", directory, e).fail())?;
    chown(directory, None, group).map_err(|e| ("change the group of", directory, e).fail())?;
    let mode = Permissions::from_mode(if group.is_some() { 0o710 } else { 0o700 });
    set_permissions(directory, mode).map_err(|e| ("change the mode of", directory, e).fail())?;
    Ok(())
}

/// Makes what the root file system is mounted on; there already is fine.
pub(super) fn make_rootfs(bundle: &Path) -> Result<()> {
    let rootfs = bundle.join(ROOTFS);
    std::fs::create_dir_all(&rootfs).map_err(|e| ("make", rootfs.as_path(), e).fail())?;
    Ok(())
}

/// The node's group that a pod's root group is, if it has a user namespace.
pub(super) fn group(spec: &SandboxSpec) -> Option<u32> {
    let ranges = &spec.namespaces.user.as_ref()?.gids;
    ranges.iter().find(|range| range.container_id == 0).map(|range| range.host_id)
}

/// Writes a file whole or not at all, for nobody else to read: it may hold what is secret.
pub(super) fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new);
    file.and_then(|mut file| file.write_all(content))
        .map_err(|e| ("write", new.as_path(), e).fail())?;
    std::fs::rename(&new, path).map_err(|e| ("replace", path, e).fail())?;
    Ok(())
}

pub(super) async fn release(context: &Context, id: &ContainerId) -> Result<()> {
    clear(context, &context.layout().bundle(id.as_str())).await
}

/// Removes a bundle. What is still mounted in it, strangers' mounts perhaps, is in the way of that
/// and not entered: then it is unmounted first, in a process of its own.
pub(super) async fn clear(context: &Context, bundle: &Path) -> Result<()> {
    let (first, again) = (bundle.to_owned(), bundle.to_owned());
    match blocking(move || files::remove(&first)).await {
        Err(Trouble::Failed(why)) if why.kind == Kind::Busy => {}
        done => return done,
    }
    helper::call(context, "unmount", &json!({"below": bundle}), UNMOUNT).await?;
    blocking(move || files::remove(&again)).await
}
