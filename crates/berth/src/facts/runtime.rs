//! What an OCI runtime can do: what it says itself, or what its version is known for.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_job::Job;
use berth_sys::spawn::Spawn;
use serde::{Deserialize, Serialize};

use super::node::version;

/// A runtime that says nothing by then is one that says nothing.
const DEADLINE: Duration = Duration::from_secs(5);

/// The first crun with the mount option `rro`.
const CRUN_WITH_RRO: (u32, u32) = (1, 4);

/// The first crun whose id-mapped mounts serve user namespaces of pods (KEP-127).
const CRUN_WITH_IDMAP: (u32, u32) = (1, 9);

/// What matters to pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RuntimeFacts {
    /// It knows the mount option `rro`.
    pub(crate) recursive_read_only: bool,
    /// It id-maps mounts.
    pub(crate) id_mapped_mounts: bool,
}

/// Which file a runtime is: another one may do other things.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// What runtimes have answered, by their paths.
type Memory = BTreeMap<PathBuf, (Identity, RuntimeFacts)>;

/// What the runtime at `path` can do. It is asked once for each boot, and again when it is another
/// file: `memory` keeps the answers, and a daemon that starts again does not wait for them.
pub(crate) async fn runtime(path: &Path, memory: &Path) -> RuntimeFacts {
    let known: Memory = std::fs::read(memory)
        .ok()
        .and_then(|t| serde_json::from_slice(&t).ok())
        .unwrap_or_default();
    let identity = std::fs::metadata(path).ok().map(|file| Identity {
        device: file.dev(),
        inode: file.ino(),
        size: file.size(),
        changed: (file.ctime(), file.ctime_nsec()),
    });
    if let (Some(identity), Some((then, facts))) = (&identity, known.get(path))
        && identity == then
    {
        return *facts;
    }
    let Some(facts) = asked(path).await else { return RuntimeFacts::default() };
    if let Some(identity) = identity {
        remember(memory, known, (path, identity, facts));
    }
    facts
}

/// What cannot be written is asked again the next time.
fn remember(memory: &Path, mut known: Memory, (path, of, facts): (&Path, Identity, RuntimeFacts)) {
    known.insert(path.to_owned(), (of, facts));
    let new = memory.with_extension("new");
    if serde_json::to_vec(&known).is_ok_and(|text| std::fs::write(&new, text).is_ok()) {
        let _ = std::fs::rename(&new, memory);
    }
}

/// Asks `<runtime> features`, and if it does not know that, `<runtime> --version`.
async fn asked(path: &Path) -> Option<RuntimeFacts> {
    if let Some(said) = ask(path, "features").await
        && let Some(facts) = of_features(&said)
    {
        return Some(facts);
    }
    ask(path, "--version").await.map(|said| of_version(&said))
}

async fn ask(path: &Path, argument: &str) -> Option<String> {
    let outcome = Job::new(Spawn::new(path).arg(argument), DEADLINE).run().await.ok()?;
    String::from_utf8(outcome.success().ok()?.stdout).ok()
}

/// The part of the OCI features structure that we read.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Features {
    mount_options: Vec<String>,
    linux: Linux,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Linux {
    mount_extensions: MountExtensions,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MountExtensions {
    idmap: Enabled,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Enabled {
    enabled: bool,
}

fn of_features(said: &str) -> Option<RuntimeFacts> {
    let features: Features = serde_json::from_str(said).ok()?;
    Some(RuntimeFacts {
        recursive_read_only: features.mount_options.iter().any(|option| option == "rro"),
        id_mapped_mounts: features.linux.mount_extensions.idmap.enabled,
    })
}

fn of_version(said: &str) -> RuntimeFacts {
    let crun = said.lines().find_map(|line| line.strip_prefix("crun version "));
    let Some(version) = crun.and_then(version) else { return RuntimeFacts::default() };
    RuntimeFacts {
        recursive_read_only: version >= CRUN_WITH_RRO,
        id_mapped_mounts: version >= CRUN_WITH_IDMAP,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_that_names_its_features_is_believed() {
        let said = r#"{"mountOptions": ["bind", "rro"], "linux": {"namespaces": ["user"]}}"#;
        let facts = of_features(said).unwrap();
        assert_eq!((facts.recursive_read_only, facts.id_mapped_mounts), (true, false));
        let said = r#"{"linux": {"mountExtensions": {"idmap": {"enabled": true}}}}"#;
        assert!(of_features(said).unwrap().id_mapped_mounts);
        assert_eq!(of_features("unknown command features"), None);
    }

    #[test]
    fn an_old_crun_is_known_by_its_version() {
        let debian = of_version("crun version 1.8.1\ncommit: f8a096be\nspec: 1.0.0\n");
        assert_eq!((debian.recursive_read_only, debian.id_mapped_mounts), (true, false));
        assert!(of_version("crun version 1.14.1\n").id_mapped_mounts);
        assert_eq!(of_version("runc version 1.0.0"), RuntimeFacts::default());
    }

    #[tokio::test]
    async fn a_runtime_is_asked_once_and_again_when_it_is_another_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, memory) = (dir.path().join("runtime"), dir.path().join("memory"));
        let write = |option: &str| {
            let text = format!(
                "#!/bin/sh\necho >>{}/asked\necho '{{\"mountOptions\": [\"{option}\"]}}'\n",
                dir.path().display()
            );
            let new = dir.path().join("new");
            std::fs::write(&new, text).unwrap();
            std::fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o755))
                .unwrap();
            std::fs::rename(new, &path).unwrap();
        };
        let asked = || std::fs::read_to_string(dir.path().join("asked")).unwrap().lines().count();
        write("rro");
        for _ in 0..2 {
            assert!(runtime(&path, &memory).await.recursive_read_only);
        }
        assert_eq!(asked(), 1);
        write("bind");
        assert!(!runtime(&path, &memory).await.recursive_read_only);
        assert_eq!(asked(), 2);
        std::fs::write(&memory, "no memory").unwrap();
        assert!(!runtime(&path, &memory).await.recursive_read_only);
        assert_eq!(asked(), 3);
    }
}
