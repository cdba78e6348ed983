//! What an API server fills into a pod before the kubelet sees it.

use serde_json::{Value, json};

/// The only node.
pub(super) const NODE: &str = "node";

/// Fills in what a manifest may leave out and the kubelet takes for granted.
pub(super) fn pod(pod: &mut Value) {
    let spec = &mut pod["spec"];
    // An API server gives 30 seconds; what has no handler for SIGTERM here need not use them up.
    fill(
        spec,
        &json!({
            "nodeName": NODE, "restartPolicy": "Always", "dnsPolicy": "ClusterFirst",
            "terminationGracePeriodSeconds": 1, "enableServiceLinks": false,
            "schedulerName": "default-scheduler", "securityContext": {},
            "automountServiceAccountToken": false,
        }),
    );
    for list in ["/initContainers", "/containers"] {
        for container in elements(spec, list) {
            self::container(container);
        }
    }
    for volume in elements(spec, "/volumes") {
        self::volume(volume);
    }
}

/// Fills in what a container of any kind may leave out.
pub(super) fn container(container: &mut Value) {
    fill(
        container,
        &json!({
            "imagePullPolicy": "IfNotPresent", "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "File", "resources": {},
        }),
    );
    for port in elements(container, "/ports") {
        fill(port, &json!({"protocol": "TCP"}));
    }
    // Requests are the limits where there are only those.
    if let Some(limits) = container.pointer("/resources/limits").cloned() {
        fill(&mut container["resources"]["requests"], &limits);
    }
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let Some(probe) = container.get_mut(probe) else { continue };
        fill(
            probe,
            &json!({
                "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1,
                "failureThreshold": 3,
            }),
        );
        for (kind, defaults) in
            [("httpGet", json!({"path": "/", "scheme": "HTTP"})), ("grpc", json!({"service": ""}))]
        {
            fill_in(probe, kind, &defaults);
        }
    }
}

fn volume(volume: &mut Value) {
    for kind in ["configMap", "secret", "projected", "downwardAPI"] {
        fill_in(volume, kind, &json!({"defaultMode": 0o644}));
    }
    fill_in(volume, "hostPath", &json!({"type": ""}));
    fill_in(volume, "image", &json!({"pullPolicy": "IfNotPresent"}));
    for source in elements(volume, "/projected/sources") {
        fill_in(source, "serviceAccountToken", &json!({"expirationSeconds": 3600}));
    }
}

/// The elements of a list, if there is one.
fn elements<'a>(of: &'a mut Value, pointer: &str) -> impl Iterator<Item = &'a mut Value> {
    of.pointer_mut(pointer).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Adds the keys that are not there to a part that is.
fn fill_in(whole: &mut Value, part: &str, defaults: &Value) {
    if let Some(part) = whole.get_mut(part) {
        fill(part, defaults);
    }
}

/// Adds the keys that are not there.
fn fill(into: &mut Value, defaults: &Value) {
    for (key, value) in defaults.as_object().into_iter().flatten() {
        if into[key].is_null() {
            into[key] = value.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_stays_and_what_is_not_is_filled_in() {
        let mut given = json!({"spec": {"restartPolicy": "Never", "containers": [
            {"name": "a", "resources": {"limits": {"cpu": "1"}}, "readinessProbe": {"grpc": {"port": 1}}},
        ]}});
        pod(&mut given);
        assert_eq!(given["spec"]["restartPolicy"], "Never");
        let container = &given["spec"]["containers"][0];
        assert_eq!(container["resources"]["requests"]["cpu"], "1");
        assert_eq!(container["readinessProbe"]["grpc"]["service"], "");
        assert!(container.get("livenessProbe").is_none());
    }
}
