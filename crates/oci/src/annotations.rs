//! Annotations of a spec: those that shims look for, and those that a handler lets through.

use std::collections::BTreeMap;

use berth_pod::spec::StringMap;

use crate::facts::{ContainerInput, PodInput};

const PREFIX: &str = "io.kubernetes.cri.";

/// Is `name` on the list: named as it stands, or by a prefix that ends in `*`.
fn allowed(list: &[String], name: &str) -> bool {
    // Ours tell a shim which sandbox a container joins: nobody else may say that.
    let reserved = name.starts_with(PREFIX) || name == "io.containerd.runc.v2.group";
    !reserved
        && list.iter().any(|entry| match entry.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == entry,
        })
}

fn pass(to: &mut BTreeMap<String, String>, from: &StringMap, list: &[String]) {
    let passed = from.iter().filter(|(name, _)| allowed(list, name));
    to.extend(passed.map(|(name, value)| (name.clone(), value.clone())));
}

fn of_pod(pod: &PodInput<'_>, container_type: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    pass(&mut all, &pod.spec.annotations, &pod.handler.pod_annotations);
    let name = &pod.spec.name;
    for (key, value) in [
        ("container-type", container_type),
        ("sandbox-id", pod.id.as_str()),
        ("sandbox-name", &name.name),
        ("sandbox-namespace", &name.namespace),
        ("sandbox-uid", &name.uid),
    ] {
        all.insert(format!("{PREFIX}{key}"), value.to_owned());
    }
    all
}

/// Of a container.
pub(crate) fn of_container(input: &ContainerInput<'_>) -> BTreeMap<String, String> {
    let mut all = of_pod(&input.pod, "container");
    pass(&mut all, &input.spec.annotations, &input.pod.handler.container_annotations);
    let image = &input.spec.image;
    let shown =
        if image.user_specified.is_empty() { &image.reference } else { &image.user_specified };
    all.insert(format!("{PREFIX}container-name"), input.spec.name.name.clone());
    all.insert(format!("{PREFIX}image-name"), shown.clone());
    all
}

/// Of a sandbox. The sizes are there before any container is: a VM is made to measure.
pub(crate) fn of_sandbox(pod: &PodInput<'_>, image: &str) -> BTreeMap<String, String> {
    let mut all = of_pod(pod, "sandbox");
    let directory = pod.spec.log_directory.as_ref();
    let directory = directory.map(|d| d.to_string_lossy().into_owned()).unwrap_or_default();
    all.insert(format!("{PREFIX}sandbox-log-directory"), directory);
    all.insert(format!("{PREFIX}podsandbox.image-name"), image.to_owned());
    if let Some(resources) = &pod.spec.resources {
        for (key, value) in [
            ("sandbox-cpu-period", resources.cpu_period),
            ("sandbox-cpu-quota", resources.cpu_quota),
            ("sandbox-cpu-shares", resources.cpu_shares),
            ("sandbox-memory", resources.memory_limit),
        ] {
            all.insert(format!("{PREFIX}{key}"), value.to_string());
        }
    }
    all
}
