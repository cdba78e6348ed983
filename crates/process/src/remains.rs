//! What a dead shim's pod has left with OCI runtimes, found without the containers' bundles: a daemon
//! may have removed those by then.

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use crate::bundle::{Config, GROUP, Traces};
use crate::error::Result;
use crate::flavour::{Flavour, Network};
use crate::reaper::Reaper;
use crate::runtime::{Roots, Runtime, RuntimeOptions};

/// Removes every container of a pod, by force, from the runtimes that have a root of ours and from
/// the one that the pod's own bundle names. Nothing left is fine.
///
/// # Errors
/// If a runtime fails.
pub async fn clean_up_pod(
    reaper: &Arc<Reaper>,
    pod: &str,
    bundle: &Path,
    roots: &Roots,
) -> Result<()> {
    // A container groups nobody.
    if Config::read(bundle).is_ok_and(|config| config.group().is_some_and(|group| group != pod)) {
        return Ok(());
    }
    let mut runtimes: Vec<_> =
        Traces::load(bundle).map(|traces| traces.runtime).into_iter().collect();
    for name in roots.runtimes() {
        if let Ok(runtime) = RuntimeOptions::resolve(&name, "", false, roots)
            && !runtimes.iter().any(|known| known.root == runtime.root)
        {
            runtimes.push(runtime);
        }
    }
    for options in runtimes {
        let ids = of_pod(&options.root, pod);
        if ids.is_empty() {
            continue;
        }
        let flavour = Flavour::of(reaper, &options.binary).await;
        let runtime = Runtime::new(options, flavour, Network::Host, Arc::clone(reaper));
        for id in ids {
            runtime.delete(&id, bundle).await?;
        }
    }
    Ok(())
}

/// The ids of a pod's containers, by a runtime's records: a directory of each, or, of runsc, files.
fn of_pod(root: &Path, pod: &str) -> Vec<String> {
    let guest = format!("_sandbox:{pod}.state");
    let id = |entry: std::fs::DirEntry| {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        match name.strip_suffix(&guest) {
            Some(id) => Some(id.to_owned()),
            None => Some(name).filter(|_| path.is_dir() && belongs(&path, pod)),
        }
    };
    std::fs::read_dir(root).into_iter().flatten().flatten().filter_map(id).collect()
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
        for guest in ["a_sandbox:pod.state", "a_sandbox:pod.lock", "b_sandbox:po.state"] {
            std::fs::write(dir.path().join(guest), "").unwrap();
        }
        let mut ids = of_pod(dir.path(), "pod");
        ids.sort();
        assert_eq!(ids, ["a", "crun", "runc"]);
        for record in [&crun, &runc] {
            assert!(belongs(record, "pod") && !belongs(record, "po"), "{}", record.display());
        }
        assert!(!belongs(&none, "pod") && !belongs(dir.path(), "pod"));
    }
}
