//! The parts of a bundle's config.json that a container without an OCI runtime is made from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use berth_cgroup::{HugepageLimit, Resources};
use serde::{Deserialize, Serialize};

use crate::bundle::{NamespaceEntry, Root};
use crate::error::{Error, Result};

/// The annotation that says what a container is to its pod, and the value of the pod's own.
const KIND: (&str, &str) = ("io.kubernetes.cri.container-type", "sandbox");

/// A container's directory and what it says.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The container's id.
    pub id: String,
    /// The directory.
    pub path: PathBuf,
    /// Where its root file system is.
    pub root: PathBuf,
    /// Its config.json.
    pub spec: Spec,
}

impl Bundle {
    /// Reads a bundle.
    pub(crate) fn read(id: &str, path: &Path) -> Result<Self> {
        let file = path.join("config.json");
        let text = std::fs::read(&file).map_err(|e| Error::file("read", &file, e))?;
        let what = file.display().to_string();
        let spec: Spec =
            serde_json::from_slice(&text).map_err(|source| Error::Json { what, source })?;
        let root = match spec.root.path.as_os_str().is_empty() {
            true => path.join("rootfs"),
            false => path.join(&spec.root.path),
        };
        Ok(Self { id: id.to_owned(), path: path.to_owned(), root, spec })
    }

    /// Whether this is the pod itself, which some daemons run as a container.
    pub(crate) fn is_sandbox(&self) -> bool {
        self.spec.annotations.get(KIND.0).is_some_and(|kind| kind == KIND.1)
    }
}

/// An OCI runtime spec.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Spec {
    /// The container's own program.
    pub process: Program,
    /// The root file system.
    pub root: Root,
    /// The host name in a new UTS namespace.
    pub hostname: String,
    /// What is to be mounted, in order.
    pub mounts: Vec<Mount>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    pub(crate) linux: Linux,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Linux {
    pub(crate) cgroups_path: String,
    pub(crate) namespaces: Vec<NamespaceEntry>,
    pub(crate) resources: Limits,
}

/// `process` of a spec, or of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Program {
    /// Its name and arguments.
    pub args: Vec<String>,
    /// Its environment, as `NAME=value`.
    pub env: Vec<String>,
    /// Its working directory.
    pub cwd: PathBuf,
    /// Whom it runs as.
    pub user: User,
    /// The kernel's preference when memory is short.
    pub oom_score_adj: Option<i16>,
    /// Whether it may not gain privileges.
    pub no_new_privileges: bool,
}

impl Program {
    /// The environment as pairs.
    pub fn env(&self) -> impl Iterator<Item = (&str, &str)> {
        self.env.iter().filter_map(|variable| variable.split_once('='))
    }

    /// Makes this process its user's, for good.
    pub fn become_user(&self) -> Result<()> {
        use rustix::process::{Gid, Uid};
        let user = &self.user;
        let more: Vec<Gid> = user.additional_gids.iter().map(|gid| Gid::from_raw(*gid)).collect();
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        let change = || -> rustix::io::Result<()> {
            rustix::thread::set_thread_groups(&more)?;
            rustix::thread::set_thread_res_gid(gid, gid, gid)?;
            rustix::thread::set_thread_res_uid(uid, uid, uid)
        };
        let who = || format!("user {}:{}", user.uid, user.gid);
        change().map_err(|e| Error::file("become", who(), e))
    }
}

/// `process.user` of a spec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct User {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Further groups.
    pub additional_gids: Vec<u32>,
}

/// One of `mounts` of a spec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// Where, inside.
    pub destination: PathBuf,
    /// `proc`, `tmpfs`, …; of a bind mount anything.
    #[serde(rename = "type")]
    pub kind: String,
    /// What.
    pub source: PathBuf,
    /// Options as in fstab.
    pub options: Vec<String>,
}

impl Mount {
    /// Whether something of the node is to appear, and not a new file system.
    pub fn is_bind(&self) -> bool {
        self.kind == "bind" || self.options.iter().any(|option| option.ends_with("bind"))
    }

    /// Whether it may only be read.
    pub fn is_read_only(&self) -> bool {
        self.options.iter().any(|option| option == "ro" || option == "rro")
    }
}

/// `linux.resources` of a spec, without what a cgroup is no place for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Limits {
    memory: Memory,
    cpu: Cpu,
    pids: Pids,
    unified: BTreeMap<String, String>,
    hugepage_limits: Vec<Hugepage>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct Memory {
    limit: Option<i64>,
    swap: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Cpu {
    shares: Option<u64>,
    quota: Option<i64>,
    period: Option<u64>,
    cpus: Option<String>,
    mems: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct Pids {
    limit: Option<i64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hugepage {
    page_size: String,
    limit: u64,
}

impl Limits {
    pub(crate) fn parse(json: &[u8]) -> Result<Self> {
        serde_json::from_slice(json)
            .map_err(|source| Error::Json { what: "resources".to_owned(), source })
    }

    /// As the cgroup takes them; huge pages only of the sizes that `keeps` knows.
    pub(crate) fn resources(self, keeps: impl Fn(&str) -> bool) -> Resources {
        let filled = |list: Option<String>| list.filter(|list| !list.is_empty());
        let pages = self.hugepage_limits.into_iter().filter(|page| keeps(&page.page_size));
        Resources {
            cpu_shares: self.cpu.shares.filter(|shares| *shares > 0),
            cpu_quota: self.cpu.quota.filter(|quota| *quota != 0),
            cpu_period: self.cpu.period.filter(|period| *period > 0),
            cpuset_cpus: filled(self.cpu.cpus),
            cpuset_mems: filled(self.cpu.mems),
            memory_limit: self.memory.limit.filter(|limit| *limit != 0),
            memory_swap_limit: self.memory.swap.filter(|limit| *limit != 0),
            pids_limit: self.pids.limit.filter(|limit| *limit != 0),
            hugepages: pages
                .map(|page| HugepageLimit { page_size: page.page_size, limit: page.limit })
                .collect(),
            unified: self.unified,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_is_read_for_what_a_process_needs() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"process":{"args":["/m.wasm","a"],"env":["A=b=c","odd"],"cwd":"/w",
            "user":{"uid":1,"gid":2,"additionalGids":[3]},"noNewPrivileges":true},
            "mounts":[{"destination":"/d","type":"x","source":"/s","options":["rbind","ro"]}],
            "annotations":{"io.kubernetes.cri.container-type":"sandbox"},
            "linux":{"cgroupsPath":"/k/c","resources":{"memory":{"limit":7},
            "cpu":{"shares":0,"quota":5},"hugepageLimits":[{"pageSize":"2MB","limit":0}]}}}"#;
        std::fs::write(dir.path().join("config.json"), text).unwrap();
        let bundle = Bundle::read("c", dir.path()).unwrap();
        assert!(bundle.is_sandbox() && bundle.root == dir.path().join("rootfs"));
        let spec = bundle.spec;
        assert_eq!(spec.process.env().collect::<Vec<_>>(), [("A", "b=c")]);
        assert!(spec.mounts[0].is_bind() && spec.mounts[0].is_read_only());
        let resources = spec.linux.resources.clone().resources(|_| false);
        assert_eq!((resources.memory_limit, resources.cpu_shares), (Some(7), None));
        assert_eq!((resources.cpu_quota, resources.hugepages.len()), (Some(5), 0));
        assert_eq!(spec.linux.resources.resources(|_| true).hugepages.len(), 1);
    }
}
