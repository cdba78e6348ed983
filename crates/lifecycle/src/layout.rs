//! Where everything of a pod lies. Names follow from ids alone, so that what an earlier try or an
//! earlier daemon left is found without asking anybody.

use std::path::{Path, PathBuf};

use berth_oci::facts::{NamespacePaths, PodFiles};
use berth_pod::SandboxId;
use berth_pod::spec::{PidMode, PodOrNode, SandboxSpec};

use crate::settings::Settings;

/// Places on this node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout<'a>(pub &'a Settings);

impl Layout<'_> {
    /// The bundle of a sandbox or a container.
    pub(crate) fn bundle(&self, id: &str) -> PathBuf {
        self.0.state_dir.join("bundles").join(id)
    }

    /// What a sandbox has under the state directory: pinned namespaces, shm, the copy of its record.
    pub(crate) fn sandbox_state(&self, id: &SandboxId) -> PathBuf {
        self.0.state_dir.join("sandboxes").join(id.as_str())
    }

    /// Where all sandboxes have their files.
    pub(crate) fn all_files(&self) -> PathBuf {
        self.0.root_dir.join("files")
    }

    /// Where checkpoints are gathered: on the disk, for they have whole memories.
    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.0.root_dir.join("checkpoints")
    }

    /// Where that of a container is.
    pub(crate) fn checkpoint(&self, id: &str) -> PathBuf {
        self.checkpoints().join(id)
    }

    /// Its resolv.conf, hostname and hosts. On the disk, whose cache the kernel takes back when it needs
    /// memory: below /run they would take three pages of it as long as the pod lives.
    pub(crate) fn sandbox_files(&self, id: &SandboxId) -> PathBuf {
        self.all_files().join(files_name(id.as_str()))
    }

    /// Where the image layers are shown id-mapped, for a pod with a user namespace.
    pub(crate) fn layers(&self, id: &SandboxId) -> PathBuf {
        self.sandbox_state(id).join("layers")
    }

    /// Where shims by others tell what happens.
    pub(crate) fn events(&self) -> PathBuf {
        self.0.state_dir.join("events.sock")
    }

    /// The root file system of the built-in pause: not below /run, where nothing may be executed on
    /// some systems.
    pub(crate) fn pause(&self) -> PathBuf {
        self.0.root_dir.join("pause")
    }

    /// Where a shared PID namespace is pinned, by our shim, or by us for one that is not ours.
    pub(crate) fn pid_ns(&self, id: &SandboxId) -> PathBuf {
        self.bundle(id.as_str()).join("pidns")
    }

    /// Where the network namespace is pinned: with the node's own, so that any tool finds it.
    pub(crate) fn netns(&self, id: &SandboxId) -> PathBuf {
        self.0.netns_dir.join(format!("berth-{}", &id.as_str()[..32]))
    }

    /// The namespaces that a pod is to have, pinned or not yet.
    pub(crate) fn namespaces(&self, id: &SandboxId, spec: &SandboxSpec) -> NamespacePaths {
        let pins = self.sandbox_state(id);
        let wanted = &spec.namespaces;
        let own_net = wanted.network == PodOrNode::Pod;
        NamespacePaths {
            user: wanted.user.is_some().then(|| pins.join("user")),
            net: own_net.then(|| self.netns(id)),
            ipc: (wanted.ipc == PodOrNode::Pod).then(|| pins.join("ipc")),
            uts: own_net.then(|| pins.join("uts")),
            pid: (wanted.pid == PidMode::Pod).then(|| self.pid_ns(id)),
        }
    }

    /// The files that a pod's containers see.
    pub(crate) fn files(&self, id: &SandboxId, spec: &SandboxSpec) -> PodFiles {
        let files = self.sandbox_files(id);
        let own_ipc = spec.namespaces.ipc == PodOrNode::Pod;
        let shm = if own_ipc { self.sandbox_state(id).join("shm") } else { "/dev/shm".into() };
        PodFiles {
            resolv_conf: Some(files.join("resolv.conf")),
            hostname: Some(files.join("hostname")),
            hosts: Some(files.join("hosts")),
            shm: Some(shm),
        }
    }

    /// The pod's host name: its own, or the node's on the host network.
    pub(crate) fn hostname<'s>(&'s self, spec: &'s SandboxSpec) -> &'s str {
        let own = spec.namespaces.network == PodOrNode::Pod && !spec.hostname.is_empty();
        if own { &spec.hostname } else { &self.0.hostname }
    }

    /// The cgroup of all shims' leaves.
    pub(crate) fn shims_cgroup(&self) -> String {
        below(&self.0.cgroup_root, "shims")
    }

    /// The leaf of a pod's shim.
    pub(crate) fn shim_cgroup(&self, id: &SandboxId) -> String {
        below(&self.shims_cgroup(), id.as_str())
    }

    /// The cgroup of the pods whose cgroup nobody named.
    pub(crate) fn pods_cgroup(&self) -> String {
        below(&self.0.cgroup_root, "pods")
    }

    /// The pod's own cgroup, when nobody named one. It is called as the kubelet's are: gVisor's own
    /// shim takes the last part of a path that begins with "pod" for the pod's cgroup.
    pub(crate) fn pod_cgroup(&self, id: &SandboxId) -> String {
        below(&self.pods_cgroup(), &format!("pod{id}"))
    }
}

/// The name of a sandbox's files: half of its id names it as well, and each config.json has it thrice.
pub(crate) fn files_name(id: &str) -> &str {
    id.get(..32).unwrap_or(id)
}

/// A cgroup below another.
pub(crate) fn below(parent: &str, name: &str) -> String {
    format!("{}/{name}", parent.trim_end_matches('/'))
}

/// A path as text; every path here is made of UTF-8.
pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
