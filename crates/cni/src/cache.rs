//! What each attachment was made with, and what came of it: one JSON file each, so that DEL and
//! CHECK need neither the configuration of today nor the pod's record.
//!
//! The file `DIR/<container id>-<interface>.json` has the fields of libcni's `cniCacheV1`: `kind`,
//! `containerId`, `config` (the list, base64), `ifName`, `networkName`, `netns`, `cniArgs`,
//! `capabilityArgs`, `result`; and `berthNetns`, which netns that was: a path may come to name
//! another. `result` is absent until the last plugin has answered.
//!
//! Written to a temporary file and renamed. No fsync: after a power cut the netns is gone as well.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::attachment::{Args, CapabilityArgs};
use crate::{Attachment, Error, NetworkList, Result};

const KIND: &str = "cniCacheV1";

/// An attachment that the cache knows of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cached {
    /// The container id, that is, the sandbox.
    pub container_id: String,
    /// The network's name; none if the file is spoilt.
    pub network: Option<String>,
    /// Did ADD complete?
    pub complete: bool,
}

/// One file of the cache.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry {
    kind: String,
    pub(crate) container_id: String,
    config: String,
    pub(crate) if_name: String,
    pub(crate) network_name: String,
    #[serde(default)]
    pub(crate) netns: PathBuf,
    #[serde(default)]
    pub(crate) cni_args: Args,
    #[serde(default)]
    pub(crate) capability_args: CapabilityArgs,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<Value>,
    #[serde(default)]
    berth_netns: Option<NetnsMark>,
}

/// Which network namespace a path named: its inode on nsfs, within one boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct NetnsMark {
    boot: String,
    device: u64,
    inode: u64,
}

impl NetnsMark {
    /// None where there is no namespace: a pin that is being let go is a plain file at last.
    fn of(path: &Path) -> Option<NetnsMark> {
        if !berth_sys::namespace::is_pinned(path).ok()? {
            return None;
        }
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let meta = fs::metadata(path).ok()?;
        Some(NetnsMark { boot: boot.trim().to_owned(), device: meta.dev(), inode: meta.ino() })
    }
}

impl Entry {
    /// What is known before the first plugin runs.
    pub(crate) fn intent(
        network: &NetworkList,
        attachment: &Attachment,
        if_name: &str,
    ) -> Result<Entry> {
        Ok(Entry {
            kind: KIND.to_owned(),
            container_id: attachment.container_id.clone(),
            config: BASE64.encode(&network.text),
            if_name: if_name.to_owned(),
            network_name: network.name.clone(),
            netns: attachment.netns.clone(),
            cni_args: attachment.args()?,
            capability_args: attachment.capability_args(),
            result: None,
            berth_netns: NetnsMark::of(&attachment.netns),
        })
    }

    /// Is the netns at `path` the one that this entry's ADD was given?
    pub(crate) fn is_of(&self, path: &Path) -> bool {
        self.netns == path && self.berth_netns.is_some() && self.berth_netns == NetnsMark::of(path)
    }

    /// The netns for DEL and CHECK; empty if it is gone, or if its path names another by now.
    pub(crate) fn netns_now(&self) -> &Path {
        if self.is_of(&self.netns) { &self.netns } else { Path::new("") }
    }

    fn check(self, path: &Path) -> Result<Entry> {
        if self.kind == KIND {
            return Ok(self);
        }
        let problem = format!("its kind is {:?}, not {KIND:?}", self.kind);
        Err(Error::CacheEntry { path: path.to_owned(), problem })
    }
}

/// The directory of entries.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
}

impl Cache {
    pub(crate) fn new(dir: PathBuf) -> Cache {
        Cache { dir }
    }

    /// The list that an entry's ADD was made with.
    pub(crate) fn network(&self, entry: &Entry) -> Result<NetworkList> {
        let path = self.path(&entry.container_id, &entry.if_name);
        let bad = |problem: &str| Error::CacheEntry { path: path.clone(), problem: problem.into() };
        let text = BASE64.decode(&entry.config).map_err(|_| bad("its config is not base64"))?;
        let text = String::from_utf8(text).map_err(|_| bad("its config is not UTF-8"))?;
        NetworkList::parse_kept(&path, &text)
    }

    pub(crate) fn load(&self, container_id: &str, if_name: &str) -> Result<Option<Entry>> {
        let path = self.path(container_id, if_name);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::cache("read", &path, e)),
        };
        let entry: Entry = serde_json::from_slice(&text)
            .map_err(|e| Error::CacheEntry { path: path.clone(), problem: e.to_string() })?;
        entry.check(&path).map(Some)
    }

    pub(crate) fn save(&self, entry: &Entry) -> Result<()> {
        let path = self.path(&entry.container_id, &entry.if_name);
        let temporary = self.temporary(&path);
        fs::create_dir_all(&self.dir).map_err(|e| Error::cache("create", &self.dir, e))?;
        let text = serde_json::to_vec(entry)
            .map_err(|e| Error::CacheEntry { path: path.clone(), problem: e.to_string() })?;
        fs::write(&temporary, text).map_err(|e| Error::cache("write", &temporary, e))?;
        fs::rename(&temporary, &path).map_err(|e| Error::cache("rename to", &path, e))
    }

    /// An absent entry is removed already.
    pub(crate) fn remove(&self, container_id: &str, if_name: &str) -> Result<()> {
        let path = self.path(container_id, if_name);
        for file in [self.temporary(&path), path] {
            match fs::remove_file(&file) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::cache("remove", &file, e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Every attachment that has a file, with its entry unless that is spoilt.
    pub(crate) fn list(&self, if_name: &str) -> Result<Vec<(String, Option<Entry>)>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::cache("read", &self.dir, e)),
        };
        let ending = format!("-{if_name}.json");
        let mut list = Vec::new();
        for entry in entries {
            let name = entry.map_err(|e| Error::cache("read", &self.dir, e))?.file_name();
            let Some(id) = name.to_str().and_then(|name| name.strip_suffix(&ending)) else {
                continue;
            };
            list.push((id.to_owned(), self.load_sound(id, if_name)?));
        }
        Ok(list)
    }

    /// Loads an entry; a spoilt one (a power cut: nothing here is synced) is told of in the log and
    /// then as good as absent.
    pub(crate) fn load_sound(&self, container_id: &str, if_name: &str) -> Result<Option<Entry>> {
        match self.load(container_id, if_name) {
            Err(spoilt @ Error::CacheEntry { .. }) => {
                tracing::warn!("{spoilt}");
                Ok(None)
            }
            other => other,
        }
    }

    fn path(&self, container_id: &str, if_name: &str) -> PathBuf {
        self.dir.join(format!("{container_id}-{if_name}.json"))
    }

    fn temporary(&self, path: &Path) -> PathBuf {
        path.with_extension("json.new")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fixture() -> (tempfile::TempDir, Cache, Entry) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().join("results"));
        let text = r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"a"}]}"#;
        let network = NetworkList::parse(Path::new("a.conflist"), text).unwrap();
        let attachment = Attachment {
            container_id: "s1".into(),
            netns: "/proc/self/ns/net".into(),
            ..Attachment::default()
        };
        let entry = Entry::intent(&network, &attachment, "eth0").unwrap();
        (dir, cache, entry)
    }

    #[test]
    fn an_entry_survives_and_goes() {
        let (_dir, cache, mut entry) = fixture();
        assert_eq!(cache.load("s1", "eth0").unwrap(), None);
        assert_eq!(cache.list("eth0").unwrap(), []);
        cache.save(&entry).unwrap();
        entry.result = Some(json!({"ips": []}));
        cache.save(&entry).unwrap();
        assert_eq!(cache.load("s1", "eth0").unwrap().as_ref(), Some(&entry));
        assert_eq!(cache.list("eth0").unwrap(), [("s1".into(), Some(entry.clone()))]);
        assert_eq!(cache.network(&entry).unwrap().name, "net");
        cache.remove("s1", "eth0").unwrap();
        cache.remove("s1", "eth0").unwrap();
        assert_eq!(cache.list("eth0").unwrap(), []);
    }

    #[test]
    fn the_fields_are_those_of_libcni() {
        let (_dir, _cache, mut entry) = fixture();
        entry.result = Some(json!({}));
        let value = serde_json::to_value(&entry).unwrap();
        for key in [
            "kind",
            "containerId",
            "config",
            "ifName",
            "networkName",
            "netns",
            "cniArgs",
            "capabilityArgs",
            "result",
        ] {
            assert!(value.get(key).is_some(), "{key} in {value}");
        }
        assert_eq!(value["cniArgs"][0], json!(["IgnoreUnknown", "1"]));
    }

    #[test]
    fn another_netns_at_the_same_path_is_told_apart() {
        let (_dir, _cache, entry) = fixture();
        assert!(entry.is_of(Path::new("/proc/self/ns/net")));
        assert_eq!(entry.netns_now(), Path::new("/proc/self/ns/net"));
        assert!(!entry.is_of(Path::new("/proc/self/ns/mnt")));
        let file = tempfile::NamedTempFile::new().unwrap();
        let elsewhere = Entry { netns: file.path().to_owned(), ..entry };
        assert_eq!(elsewhere.netns_now(), Path::new(""));
    }

    #[test]
    fn a_pin_that_was_let_go_half_way_is_no_netns() {
        let (_dir, _cache, entry) = fixture();
        let file = tempfile::NamedTempFile::new().unwrap();
        let mark = NetnsMark::of(file.path());
        let half = Entry { netns: file.path().to_owned(), berth_netns: mark, ..entry };
        assert_eq!(half.netns_now(), Path::new(""));
    }

    #[test]
    fn a_spoilt_entry_is_still_listed() {
        let (dir, cache, entry) = fixture();
        cache.save(&entry).unwrap();
        let path = dir.path().join("results/s1-eth0.json");
        for text in [
            "",
            "{}",
            r#"{"kind":"other","containerId":"s1","config":"","ifName":"eth0","networkName":"n"}"#,
        ] {
            std::fs::write(&path, text).unwrap();
            assert!(matches!(cache.load("s1", "eth0"), Err(Error::CacheEntry { .. })), "{text}");
            assert_eq!(cache.list("eth0").unwrap(), [("s1".into(), None)]);
        }
    }
}
