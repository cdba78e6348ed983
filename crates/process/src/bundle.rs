//! What the shim reads of a bundle's config.json, and what it leaves there itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rustix::fs::{XattrFlags, getxattr, setxattr};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::flavour::Flavour;
use crate::runtime::RuntimeOptions;

/// The annotations that name the pod of a container: ours and CRI's, then containerd's own.
pub(crate) const GROUP: [&str; 2] = ["io.kubernetes.cri.sandbox-id", "io.containerd.runc.v2.group"];

/// Says of a container whether it makes the pod's sandbox or joins it.
const TYPE: &str = "io.kubernetes.cri.container-type";

/// The parts of an OCI spec that matter outside the runtime.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Config {
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// The root file system.
    pub root: Root,
    /// What only Linux has.
    pub linux: Linux,
}

/// `root` of a spec.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Root {
    /// Relative paths count from the bundle.
    pub path: PathBuf,
    /// Whether its files may only be read.
    pub readonly: bool,
}

/// `linux` of a spec.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Linux {
    /// Path below each cgroup hierarchy's root, or systemd's `slice:prefix:name`.
    pub cgroups_path: String,
    /// Namespaces, joined (with a path) or new.
    pub namespaces: Vec<NamespaceEntry>,
}

/// One of `linux.namespaces`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct NamespaceEntry {
    /// `pid`, `network`, `mount`, `ipc`, `uts`, `user`, `cgroup`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Empty: a new one.
    pub path: PathBuf,
}

impl Config {
    /// Reads `<bundle>/config.json`.
    pub fn read(bundle: &Path) -> Result<Self> {
        let path = bundle.join("config.json");
        let text = std::fs::read(&path).map_err(|e| Error::file("read", &path, e))?;
        let what = || path.display().to_string();
        serde_json::from_slice(&text).map_err(|source| Error::Json { what: what(), source })
    }

    /// The limits of `<bundle>/config.json`: JSON, an empty object where there are none.
    pub(crate) fn resources(bundle: &Path) -> Result<Vec<u8>> {
        #[derive(Deserialize)]
        struct Spec {
            #[serde(default)]
            linux: Linux,
        }
        #[derive(Default, Deserialize)]
        struct Linux {
            resources: Option<serde_json::Value>,
        }
        let path = bundle.join("config.json");
        let json = |source| Error::Json { what: path.display().to_string(), source };
        let text = std::fs::read(&path).map_err(|e| Error::file("read", &path, e))?;
        let spec: Spec = serde_json::from_slice(&text).map_err(json)?;
        let none = || serde_json::Value::Object(serde_json::Map::new());
        serde_json::to_vec(&spec.linux.resources.unwrap_or_else(none)).map_err(json)
    }

    /// The pod this container belongs to, if an annotation says so.
    pub fn group(&self) -> Option<&str> {
        GROUP.iter().find_map(|name| self.annotations.get(*name)).map(String::as_str)
    }

    /// Whether this container joins the sandbox of another one, where there are sandboxes.
    pub(crate) fn joins_a_sandbox(&self) -> bool {
        self.annotations.get(TYPE).is_some_and(|kind| kind == "container")
    }

    /// The namespace of a kind (`pid`, `user`, …) as the spec has it.
    pub fn namespace(&self, kind: &str) -> Option<&NamespaceEntry> {
        self.linux.namespaces.iter().find(|entry| entry.kind == kind)
    }

    /// Where the root file system is mounted.
    pub fn rootfs(&self, bundle: &Path) -> PathBuf {
        if self.root.path.as_os_str().is_empty() {
            return bundle.join("rootfs");
        }
        bundle.join(&self.root.path)
    }
}

/// What cleaning up after a dead shim needs to know of one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traces {
    /// The runtime that has it.
    pub runtime: RuntimeOptions,
    /// Which one that is.
    #[serde(default)]
    pub flavour: Flavour,
    /// Its cgroup below each hierarchy's root, once it has one.
    #[serde(default)]
    pub cgroup: Option<PathBuf>,
}

/// The bundle's attribute that holds them: a file would take a page of memory, and an inode.
const ATTRIBUTE: &str = "trusted.berth.traces";
/// As much as the kernel lets an attribute hold (xattr(7)).
const MOST: usize = 64 << 10;

impl Traces {
    /// Where there are no attributes, or none for us.
    fn file(bundle: &Path) -> PathBuf {
        bundle.join("berth-shim.json")
    }

    /// Leaves them in the bundle, whole or not at all.
    pub fn save(&self, bundle: &Path) -> Result<()> {
        let what = || format!("what is to be known of {}", bundle.display());
        let text =
            serde_json::to_vec(self).map_err(|source| Error::Json { what: what(), source })?;
        match setxattr(bundle, ATTRIBUTE, &text, XattrFlags::empty()) {
            Err(Errno::OPNOTSUPP | Errno::PERM) => Self::write(bundle, &text),
            set => set.map_err(|why| Error::file("set an attribute of", bundle, why)),
        }
    }

    fn write(bundle: &Path, text: &[u8]) -> Result<()> {
        let path = Self::file(bundle);
        // Renamed into place: `delete` must never find half of it.
        let new = path.with_extension("new");
        std::fs::write(&new, text)
            .and_then(|()| std::fs::rename(&new, &path))
            .map_err(|e| Error::file("write", &path, e))
    }

    /// Reads them; `None` if nothing was ever begun here.
    pub fn load(bundle: &Path) -> Option<Self> {
        let mut text = vec![0; MOST];
        let text = match getxattr(bundle, ATTRIBUTE, &mut text) {
            Ok(length) => text.get(..length)?.to_owned(),
            Err(_) => std::fs::read(Self::file(bundle)).ok()?,
        };
        serde_json::from_slice(&text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Roots;

    #[test]
    fn a_spec_is_read_for_what_matters() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path();
        let spec = r#"{"ociVersion":"1.0.2","root":{"path":"/images/r"},"process":{"args":["x"]},
            "annotations":{"io.kubernetes.cri.sandbox-id":"pod1"},
            "linux":{"cgroupsPath":"/k/p/c","namespaces":[{"type":"pid"},
            {"type":"user","path":"/ns/u"}]}}"#;
        std::fs::write(bundle.join("config.json"), spec).unwrap();
        let config = Config::read(bundle).unwrap();
        assert_eq!(config.group(), Some("pod1"));
        assert_eq!(config.rootfs(bundle), Path::new("/images/r"));
        assert_eq!(config.namespace("user").unwrap().path, Path::new("/ns/u"));
        assert_eq!(config.namespace("pid").unwrap().path, Path::new(""));
        assert!(config.namespace("network").is_none());
        std::fs::write(bundle.join("config.json"), "{}").unwrap();
        assert_eq!(Config::read(bundle).unwrap().rootfs(bundle), bundle.join("rootfs"));
        std::fs::write(bundle.join("config.json"), "{").unwrap();
        assert_eq!(Config::read(bundle).unwrap_err().kind(), crate::Kind::Invalid);
    }

    #[test]
    fn traces_survive_their_writer() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Traces::load(dir.path()), None);
        let runtime =
            RuntimeOptions::resolve("/opt/crun", "/r", false, &Roots::new(dir.path(), "")).unwrap();
        let traces = Traces { runtime, flavour: Flavour::Crun, cgroup: Some("/k/p/c".into()) };
        // A bundle of an earlier version, or one whose file system has no attributes.
        Traces::write(dir.path(), &serde_json::to_vec(&traces).unwrap()).unwrap();
        assert_eq!(Traces::load(dir.path()).as_ref(), Some(&traces));
        let later = Traces { cgroup: Some("/k/p/d".into()), ..traces };
        later.save(dir.path()).unwrap();
        assert_eq!(Traces::load(dir.path()).as_ref(), Some(&later));
    }
}
