//! The spec of a container.

use berth_pod::spec::{PidMode, Profile};

use crate::annotations;
use crate::capability::Granted;
use crate::cgroup_path::cgroups_path;
use crate::error::Error;
use crate::facts::ContainerInput;
use crate::paths::{absolute, clean};
use crate::spec::{Hooks, Linux, Root, Spec};
use crate::{OCI_VERSION, devices, mounts, namespaces, process, resources, seccomp};

/// Hidden unless CRI lists its own.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Read-only unless CRI lists its own.
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The spec of a container's bundle, but for its CDI devices, which [`crate::cdi::Edits::apply`] adds.
///
/// # Errors
/// When the request contradicts itself, asks for what this node cannot do, or a fact that it
/// needs was not supplied.
pub fn container_spec(input: &ContainerInput<'_>) -> Result<Spec, Error> {
    let (pod, security) = (&input.pod, &input.spec.security);
    check(input)?;
    let granted = Granted::decide(input.spec, pod.node.capabilities)?;
    let mounts = mounts::of_container(input)?;
    let devices = devices::of_container(input)?;
    let mut linux = Linux {
        resources: resources::initial(&input.spec.resources, pod.node)?,
        cgroups_path: cgroups_path(pod.node.cgroup_driver, pod.cgroup, input.id.as_str())?,
        devices: devices.nodes,
        seccomp: seccomp::filter(input, granted.bounding)?,
        rootfs_propagation: mounts.rootfs_propagation.to_owned(),
        mount_label: process::selinux_labels(input).mounts,
        ..Linux::default()
    };
    linux.resources.devices = devices.rules;
    if !security.privileged {
        linux.masked_paths = paths("masked_paths", &security.masked_paths, &MASKED)?;
        linux.readonly_paths = paths("readonly_paths", &security.readonly_paths, &READ_ONLY)?;
    }
    namespaces::shared(pod, &mut linux)?;
    namespaces::own(input, &mut linux)?;
    Ok(Spec {
        oci_version: OCI_VERSION.to_owned(),
        process: Some(process::first(input, granted)?),
        root: Some(Root { path: input.rootfs.to_owned(), readonly: security.readonly_rootfs }),
        hostname: String::new(),
        mounts: mounts.list,
        hooks: Hooks::default(),
        annotations: annotations::of_container(input),
        linux,
    })
}

/// What no single part can see.
fn check(input: &ContainerInput<'_>) -> Result<(), Error> {
    let (pod, security) = (input.pod.spec, &input.spec.security);
    if security.privileged && !pod.privileged {
        let text = "a privileged container needs a sandbox that was made privileged";
        return Err(Error::invalid("security_context.privileged", text));
    }
    if security.privileged && pod.namespaces.user.is_some() {
        let text = "a privileged container cannot run in a pod with a user namespace";
        return Err(Error::invalid("security_context.privileged", text));
    }
    if security.pid == PidMode::Node && pod.namespaces.user.is_some() {
        let text = "the node's processes cannot be shown in a pod with a user namespace: /proc \
                    belongs to another one; use POD or CONTAINER";
        return Err(Error::invalid("security_context.namespace_options.pid", text));
    }
    if let Profile::Localhost(name) = &security.seccomp
        && name.is_empty()
    {
        let text = "a localhost profile needs its path";
        return Err(Error::invalid("security_context.seccomp", text));
    }
    Ok(())
}

/// CRI cannot tell an empty list from none at all: empty keeps the defaults, the stricter reading.
pub(crate) fn paths(field: &str, asked: &[String], default: &[&str]) -> Result<Vec<String>, Error> {
    if asked.is_empty() {
        return Ok(default.iter().map(|&path| path.to_owned()).collect());
    }
    let field = format!("security_context.{field}");
    let one = |path: &String| {
        absolute(&field, path.as_ref()).map(|p| clean(&p).to_string_lossy().into_owned())
    };
    asked.iter().map(one).collect()
}

/// The defaults, for a process that nobody configures.
pub(crate) fn default_paths() -> (Vec<String>, Vec<String>) {
    let own = |list: &[&str]| list.iter().map(|&path| path.to_owned()).collect();
    (own(&MASKED), own(&READ_ONLY))
}
