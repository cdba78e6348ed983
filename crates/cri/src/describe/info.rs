//! Verbose information: `info["info"]`, JSON that crictl merges into what it prints.

use std::collections::BTreeMap;

use berth_lifecycle::{ContainerView, PodView};
use serde_json::{Value, json};

/// Of a sandbox.
pub(crate) fn pod_info(pod: &PodView, runtime_type: &str) -> BTreeMap<String, String> {
    wrap(&json!({
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
