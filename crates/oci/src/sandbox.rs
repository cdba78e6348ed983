//! The spec of a sandbox: what a shim reads to learn about the pod.
//!
//! Berth's own shim takes namespaces, control group and annotations from it, and forks the pause
//! itself. A shim that makes the sandbox a task runs the process that stands here.

use std::path::Path;

use berth_pod::spec::{PidMode, PodOrNode};

use crate::capability::CapabilitySet;
use crate::container::default_paths;
use crate::error::Error;
use crate::facts::PodInput;
use crate::resources::oom_score_adj;
use crate::spec::{Hooks, Linux, NamespaceKind, Process, Root, Spec, User};
use crate::{OCI_VERSION, annotations, devices, mounts, namespaces, seccomp};

/// The kubelet's own value for a pod's first process: nearly the last one to be killed.
const OOM_SCORE_ADJ: i64 = -998;

/// How the sandbox is going to be run.
#[derive(Clone, Copy, Debug)]
pub struct SandboxTask<'a> {
    /// The control group, in the driver's form or the pod's own path.
    pub cgroups_path: &'a str,
    /// Root file system with `/pause`.
    pub rootfs: &'a Path,
    /// Name shown for what is in it; "" for the built-in one.
    pub image: &'a str,
    /// The process is run as a task of the runtime, not by Berth's shim: it needs a PID
    /// namespace of its own even where the pod shares none.
    pub as_task: bool,
}

/// The spec of a sandbox's bundle. A PID namespace without a path stands in it exactly when a
/// process has to hold one: the pod shares it, or the sandbox is a task.
///
/// # Errors
/// When the pod's namespaces were not supplied.
pub fn sandbox_spec(pod: &PodInput<'_>, task: &SandboxTask<'_>) -> Result<Spec, Error> {
    let (masked_paths, readonly_paths) = default_paths();
    let mut linux = Linux {
        cgroups_path: task.cgroups_path.to_owned(),
        sysctl: pod.spec.sysctls.clone(),
        masked_paths,
        readonly_paths,
        // Berth's own shim runs no process from this, and the profile would be most of its length.
        seccomp: (task.as_task && pod.node.seccomp)
            .then(|| seccomp::default_profile(pod.node, CapabilitySet::default())),
        ..Linux::default()
    };
    linux.resources.devices = devices::default_rules();
    namespaces::shared(pod, &mut linux)?;
    linux.namespaces.push(namespaces::fresh(NamespaceKind::Mount));
    let own_pid = match &pod.spec.namespaces.pid {
        PidMode::Pod => true,
        PidMode::Container | PidMode::Target(_) => task.as_task,
        PidMode::Node => false,
    };
    if own_pid {
        linux.namespaces.push(namespaces::fresh(NamespaceKind::Pid));
    }
    let own_name = pod.spec.namespaces.network == PodOrNode::Pod;
    Ok(Spec {
        oci_version: OCI_VERSION.to_owned(),
        process: Some(pause(pod)?),
        root: Some(Root { path: task.rootfs.to_owned(), readonly: true }),
        hostname: if own_name { pod.hostname.to_owned() } else { String::new() },
        mounts: mounts::system(pod, false),
        hooks: Hooks::default(),
        annotations: annotations::of_sandbox(pod, task.image),
        linux,
    })
}

/// No capability, no new privileges, nothing to find: it only waits.
fn pause(pod: &PodInput<'_>) -> Result<Process, Error> {
    Ok(Process {
        user: User::default(),
        // One program is the helper and the pause.
        args: vec!["/pause".to_owned(), "pause".to_owned()],
        env: vec!["PATH=/".to_owned()],
        cwd: "/".into(),
        no_new_privileges: true,
        oom_score_adj: Some(oom_score_adj(OOM_SCORE_ADJ, pod.node)?),
        ..Process::default()
    })
}
