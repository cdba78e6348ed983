//! Verbose information: `info["info"]`, JSON that crictl merges into what it prints.

use std::collections::BTreeMap;
use std::path::Path;

use berth_lifecycle::{ContainerView, PodView};
use serde_json::{Value, json};

/// Of a sandbox.
pub(crate) fn pod_info(pod: &PodView, runtime_type: &str) -> BTreeMap<String, String> {
    let resources = pod.record.resources();
    wrap(&json!({
        "overhead": resources.overhead,
        "resources": resources.containers,
        "pid": pod.pid().unwrap_or_default(),
        "config": pod.spec(),
        "runtimeHandler": pod.record.handler,
        "runtimeType": runtime_type,
        "networkNamespace": pod.netns(),
        "cgroup": pod.cgroup(),
        "notReadyBecause": pod.record.lost.as_ref().map(|lost| lost.reason()),
    }))
}

/// Of a container; `spec` is the OCI spec that it was created with.
pub(crate) fn container_info(
    container: &ContainerView,
    spec: &Value,
    runtime_type: &str,
) -> BTreeMap<String, String> {
    wrap(&json!({
        "sandboxID": container.sandbox,
        "pid": container.pid().unwrap_or_default(),
        "config": container.spec(),
        "runtimeSpec": spec,
        "snapshotKey": container.id(),
        "snapshotter": "overlay",
        "runtimeType": runtime_type,
        "cgroup": container.cgroup(),
    }))
}

/// Of an image: its configuration as the image carries it.
pub(crate) fn image_info(config: &Value) -> BTreeMap<String, String> {
    wrap(&json!({ "imageSpec": config }))
}

fn wrap(info: &Value) -> BTreeMap<String, String> {
    BTreeMap::from([("info".to_owned(), info.to_string())])
}

/// `containerd-shim-runc-v2` → `io.containerd.runc.v2`, the name that tools know a shim by.
pub(crate) fn runtime_type(shim: &Path) -> String {
    let file = shim.file_name().unwrap_or_default().to_string_lossy();
    match file.strip_prefix("containerd-shim-").and_then(|rest| rest.rsplit_once('-')) {
        Some((name, version)) => format!("io.containerd.{name}.{version}"),
        None => file.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shim_has_the_name_of_its_runtime_type() {
        let of = |shim: &str| runtime_type(Path::new(shim));
        assert_eq!(of("/usr/bin/containerd-shim-runc-v2"), "io.containerd.runc.v2");
        assert_eq!(of("/opt/mine"), "mine");
    }
}
