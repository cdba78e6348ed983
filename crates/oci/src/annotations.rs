//! Annotations of a spec: those that shims look for, and those that a handler lets through.

use std::collections::BTreeMap;

use berth_pod::spec::StringMap;

use crate::facts::{CgroupDriver, ContainerInput, GuestNetwork, PodInput};

const PREFIX: &str = "io.kubernetes.cri.";

/// Is `name` on the list: as it stands, or by a pattern.
fn allowed(list: &[String], name: &str) -> bool {
    // Ours tell a shim which sandbox a container joins: nobody else may say that.
    let reserved = name.starts_with(PREFIX) || name == "io.containerd.runc.v2.group";
    !reserved && list.iter().any(|pattern| matches(pattern.as_bytes(), name.as_bytes()))
}

/// `*` is any text, `?` any one character. A star takes as little as it can and more when what
/// follows does not fit; only the last one need ever be tried again.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut last_star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                last_star = Some((p, n));
                p += 1;
            }
            Some(b'?') => (p, n) = (p + 1, n + 1),
            Some(byte) if *byte == name[n] => (p, n) = (p + 1, n + 1),
            _ => match last_star {
                Some((star, taken)) => {
                    last_star = Some((star, taken + 1));
                    (p, n) = (star + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
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
    if pod.node.cgroup_driver == CgroupDriver::Systemd {
        // Of crun, which else puts processes into a cgroup below their scope.
        all.insert("run.oci.systemd.subgroup".to_owned(), String::new());
    }
    if pod.handler.guest_network == Some(GuestNetwork::Node) {
        // For our own shim. runsc's annotation for its flag needs yet another flag, which would let
        // pods set any.
        all.insert("dev.berth.guest-network".to_owned(), "node".to_owned());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_fits_a_whole_name() {
        let fits = |pattern: &str, name: &str| matches(pattern.as_bytes(), name.as_bytes());
        for (pattern, name) in [
            ("io.katacontainers.*", "io.katacontainers.config.hypervisor"),
            ("*", "anything"),
            ("*", ""),
            ("a*b*c", "a--b-b--c"),
            ("*.example.com/*", "team.example.com/cpu"),
            ("dev.gvisor.?", "dev.gvisor.x"),
            ("plain", "plain"),
        ] {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("plain", "plainer"),
            ("plain*", "plai"),
            ("a*b", "a-b-c"),
            ("dev.gvisor.?", "dev.gvisor."),
            ("", "x"),
        ] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn nobody_but_berth_says_which_sandbox_a_container_joins() {
        let all = ["*".to_owned()];
        assert!(!allowed(&all, "io.kubernetes.cri.sandbox-id"));
        assert!(!allowed(&all, "io.containerd.runc.v2.group"));
        assert!(allowed(&all, "io.kubernetes.container.hash"));
    }
}
