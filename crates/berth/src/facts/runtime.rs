//! What an OCI runtime can do: what it says itself, or what its version is known for.

use std::path::Path;
use std::time::Duration;

use berth_job::Job;
use berth_sys::spawn::Spawn;
use serde::Deserialize;

use super::node::version;

/// A runtime that says nothing by then is one that says nothing.
const DEADLINE: Duration = Duration::from_secs(5);

/// The first crun with the mount option `rro`.
const CRUN_WITH_RRO: (u32, u32) = (1, 4);

/// The first crun whose id-mapped mounts serve user namespaces of pods (KEP-127).
const CRUN_WITH_IDMAP: (u32, u32) = (1, 9);

/// What matters to pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RuntimeFacts {
    /// It knows the mount option `rro`.
    pub(crate) recursive_read_only: bool,
    /// It id-maps mounts.
    pub(crate) id_mapped_mounts: bool,
}

/// Asks `<runtime> features`, and if it does not know that, `<runtime> --version`.
pub(crate) async fn runtime(path: &Path) -> RuntimeFacts {
    if let Some(said) = ask(path, "features").await
        && let Some(facts) = of_features(&said)
    {
        return facts;
    }
    ask(path, "--version").await.map(|said| of_version(&said)).unwrap_or_default()
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
}
