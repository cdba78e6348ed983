//! What a dead shim's pod has left with OCI runtimes, found without the containers' bundles: a daemon
//! may have removed those by then.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use crate::bundle::{Config, GROUP, Traces};
use crate::error::Result;
use crate::flavour::{Flavour, Network};
use crate::reaper::Reaper;
use crate::runtime::{Runtime, RuntimeOptions};

/// Removes every container of a pod, by force, from the runtimes that keep their state below
/// `state` and from the one that the pod's own bundle names. Nothing left is fine.
///
/// # Errors
/// If a runtime fails.
pub async fn clean_up_pod(
    reaper: &Arc<Reaper>,
    pod: &str,
    bundle: &Path,
    state: &Path,
) -> Result<()> {
    // A container groups nobody.
    if Config::read(bundle).is_ok_and(|config| config.group().is_some_and(|group| group != pod)) {
        return Ok(());
    }
    let mut runtimes: Vec<_> =
        Traces::load(bundle).map(|traces| traces.runtime).into_iter().collect();
    for root in directories(&RuntimeOptions::roots(state)) {
        let name = root.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let known = runtimes.iter().any(|runtime| runtime.root == root);
        if let Ok(runtime) = RuntimeOptions::resolve(&name, "", false, state)
            && !known
        {
            runtimes.push(runtime);
        }
    }
    for options in runtimes {
        let ids = directories(&options.root).into_iter().filter(|dir| belongs(dir, pod));
        let ids: Vec<_> = ids.filter_map(|dir| dir.file_name().map(ToOwned::to_owned)).collect();
        if ids.is_empty() {
            continue;
        }
        let flavour = Flavour::of(reaper, &options.binary).await;
        let runtime = Runtime::new(options, flavour, Network::Host, Arc::clone(reaper));
        for id in ids {
            runtime.delete(&id.to_string_lossy(), bundle).await?;
        }
    }
    Ok(())
}

fn directories(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// Whether a runtime's record is of a container of this pod: crun keeps a copy of the spec, runc the
/// annotations as labels.
fn belongs(record: &Path, pod: &str) -> bool {
    #[derive(Deserialize)]
    struct State {
        config: Labels,
    }
    #[derive(Deserialize)]
    struct Labels {
        #[serde(default)]
        labels: Vec<String>,
    }
    if Config::read(record).is_ok_and(|config| config.group() == Some(pod)) {
        return true;
    }
    let text = std::fs::read(record.join("state.json")).unwrap_or_default();
    // Most are of other pods.
    if !text.windows(pod.len().max(1)).any(|part| part == pod.as_bytes()) {
        return false;
    }
    let Ok(state) = serde_json::from_slice::<State>(&text) else { return false };
    let names = |label: &str| {
        label.split_once('=').is_some_and(|(name, value)| GROUP.contains(&name) && value == pod)
    };
    state.config.labels.iter().any(|label| names(label))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_both_runtimes_name_their_pod() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let record = dir.path().join(name);
            let file = if name == "crun" { "config.json" } else { "state.json" };
            std::fs::create_dir_all(&record).unwrap();
            std::fs::write(record.join(file), text).unwrap();
            record
        };
        let crun = write("crun", r#"{"annotations": {"io.kubernetes.cri.sandbox-id": "pod"}}"#);
        let runc = write(
            "runc",
            r#"{"config": {"labels": ["a=pod", "io.kubernetes.cri.sandbox-id=pod"]}}"#,
        );
        let none = write("none", r#"{"config": {"labels": ["name=pod"]}}"#);
        for record in [&crun, &runc] {
            assert!(belongs(record, "pod") && !belongs(record, "po"), "{}", record.display());
        }
        assert!(!belongs(&none, "pod") && !belongs(dir.path(), "pod"));
    }
}
