//! A container's spec over one that the node's operator supplied for the handler.
//!
//! What Berth decides for a container stands as Berth decided it, also where it decided on nothing:
//! a container without a seccomp filter must not be given one here, nor one that is not privileged
//! a capability. The rest comes from both: names of ours win over the same names of the base.

use serde_json::{Map, Value};

use crate::error::Error;
use crate::spec::Spec;

/// What is Berth's alone, as paths of keys.
const OURS: [&[&str]; 20] = [
    &["ociVersion"],
    &["root"],
    &["hostname"],
    &["process", "terminal"],
    &["process", "consoleSize"],
    &["process", "user"],
    &["process", "args"],
    &["process", "commandLine"],
    &["process", "cwd"],
    &["process", "capabilities"],
    &["process", "noNewPrivileges"],
    &["process", "apparmorProfile"],
    &["process", "oomScoreAdj"],
    &["process", "selinuxLabel"],
    &["linux", "uidMappings"],
    &["linux", "gidMappings"],
    &["linux", "cgroupsPath"],
    &["linux", "namespaces"],
    &["linux", "rootfsPropagation"],
    &["linux", "mountLabel"],
];

/// Berth's as well; they may be absent on purpose.
const PROTECTION: [&str; 3] = ["seccomp", "maskedPaths", "readonlyPaths"];

/// Lists whose entries have a name: which member that is.
const NAMED: [(&[&str], &str); 3] = [
    (&["mounts"], "destination"),
    (&["process", "rlimits"], "type"),
    (&["linux", "devices"], "path"),
];

/// The text of `config.json`: this spec over a base.
///
/// # Errors
/// Never for a spec that this crate made.
pub fn over_base(base: &Value, spec: &Spec) -> Result<Vec<u8>, Error> {
    let no_json = |e| Error::Missing(format!("the spec has no JSON form: {e}"));
    let ours = serde_json::to_value(spec).map_err(no_json)?;
    let mut whole = base.clone();
    for path in OURS {
        remove(&mut whole, path);
    }
    for key in PROTECTION {
        remove(&mut whole, &["linux", key]);
    }
    lay(&mut whole, ours, &mut Vec::new());
    serde_json::to_vec(&whole).map_err(no_json)
}

/// The text of `config.json`: this one with the limits and the OOM score of the spec that was read
/// from it. Whatever else it has stays, also what a [`Spec`] has no names for.
///
/// # Errors
/// If the text is not JSON.
pub fn with_limits(text: &[u8], spec: &Spec) -> Result<Vec<u8>, Error> {
    let mut whole: Value = serde_json::from_slice(text)
        .map_err(|e| Error::invalid("config.json", format!("is not JSON: {e}")))?;
    let no_json = |e| Error::Missing(format!("the limits have no JSON form: {e}"));
    let resources = serde_json::to_value(&spec.linux.resources).map_err(no_json)?;
    if let Some(score) = spec.process.as_ref().and_then(|process| process.oom_score_adj) {
        whole["process"]["oomScoreAdj"] = score.into();
    }
    replace(&mut whole["linux"]["resources"], resources);
    serde_json::to_vec(&whole).map_err(no_json)
}

/// Objects key by key; what is in both is the new one's.
fn replace(old: &mut Value, new: Value) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (key, value) in new {
                replace(old.entry(key).or_insert(Value::Null), value);
            }
        }
        (old, new) => *old = new,
    }
}

fn remove(value: &mut Value, path: &[&str]) {
    let Some((last, above)) = path.split_last() else { return };
    let inside = above.iter().try_fold(value, |value, key| value.get_mut(*key));
    if let Some(object) = inside.and_then(Value::as_object_mut) {
        object.remove(*last);
    }
}

/// Lays ours over what is below: objects key by key, lists as their place wants it.
fn lay(below: &mut Value, ours: Value, at: &mut Vec<String>) {
    match (below, ours) {
        (Value::Object(below), Value::Object(ours)) => {
            for (key, value) in ours {
                at.push(key.clone());
                match below.get_mut(&key) {
                    Some(there) => lay(there, value, at),
                    None => drop(below.insert(key, value)),
                }
                at.pop();
            }
        }
        (Value::Array(below), Value::Array(ours)) => join(below, ours, at),
        (below, ours) => *below = ours,
    }
}

fn join(below: &mut Vec<Value>, ours: Vec<Value>, at: &[String]) {
    let is = |path: &[&str]| at.iter().map(String::as_str).eq(path.iter().copied());
    if let Some((_, name)) = NAMED.iter().find(|(path, _)| is(path)) {
        below.retain(|entry| !ours.iter().any(|own| own[*name] == entry[*name]));
        below.extend(ours);
    } else if is(&["process", "env"]) {
        let name = |entry: &Value| {
            let text = entry.as_str().unwrap_or_default();
            text.split('=').next().unwrap_or_default().to_owned()
        };
        below.retain(|entry| !ours.iter().any(|own| name(own) == name(entry)));
        below.extend(ours);
    } else if is(&["linux", "resources", "devices"]) {
        // A later rule wins. One that is for everything would undo ours.
        let special = below.drain(..).filter(|rule| rule.as_object().is_some_and(is_special));
        let rules: Vec<Value> = ours.into_iter().chain(special).collect();
        *below = rules;
    } else {
        // Hooks, and whatever else has no names: both, in the base's order first.
        below.extend(ours);
    }
}

/// Is a device rule for certain devices only?
fn is_special(rule: &Map<String, Value>) -> bool {
    let all = |key: &str, everything: &str| {
        rule.get(key).is_none_or(|value| value == everything || value.as_i64() == Some(-1))
    };
    !(all("type", "a") && all("major", "") && all("minor", ""))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::spec::{Linux, Mount, Process};

    fn laid(base: &Value, spec: &Spec) -> Value {
        serde_json::from_slice(&over_base(base, spec).unwrap()).unwrap()
    }

    fn spec() -> Spec {
        Spec {
            process: Some(Process {
                args: vec!["sh".into()],
                env: vec!["PATH=/bin".into(), "A=ours".into()],
                ..Process::default()
            }),
            mounts: vec![Mount { destination: "/proc".into(), ..Mount::default() }],
            annotations: BTreeMap::from([("a".into(), "ours".into())]),
            linux: Linux { cgroups_path: "/ours".into(), ..Linux::default() },
            ..Spec::default()
        }
    }

    #[test]
    fn what_berth_does_not_decide_comes_from_the_base() {
        let base = json!({
            "process": {
                "env": ["A=base", "B=base"], "rlimits": [{"type": "RLIMIT_CORE", "hard": 0, "soft": 0}],
                "ioPriority": {"class": "IOPRIO_CLASS_IDLE"},
            },
            "mounts": [{"destination": "/proc", "source": "base"}, {"destination": "/extra"}],
            "hooks": {"createRuntime": [{"path": "/hook"}]},
            "annotations": {"a": "base", "b": "base"},
            "linux": {
                "sysctl": {"kernel.x": "1"}, "resources": {"pids": {"limit": 7}},
                "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}],
            },
        });
        let whole = laid(&base, &spec());
        assert_eq!(whole["process"]["env"], json!(["B=base", "PATH=/bin", "A=ours"]));
        assert_eq!(whole["process"]["rlimits"][0]["type"], "RLIMIT_CORE");
        assert_eq!(whole["process"]["ioPriority"]["class"], "IOPRIO_CLASS_IDLE");
        let at: Vec<_> = whole["mounts"].as_array().unwrap().iter().collect();
        assert_eq!((at.len(), &at[0]["destination"]), (2, &json!("/extra")));
        assert!(at[1].get("source").is_none(), "a mount of ours is ours alone");
        assert_eq!(whole["hooks"]["createRuntime"][0]["path"], "/hook");
        assert_eq!(whole["annotations"], json!({"a": "ours", "b": "base"}));
        assert_eq!(whole["linux"]["sysctl"]["kernel.x"], "1");
        assert_eq!(whole["linux"]["resources"]["pids"]["limit"], 7);
        assert_eq!(whole["linux"]["devices"][0]["path"], "/dev/fuse");
        crate::from_json(&over_base(&base, &spec()).unwrap()).unwrap();
    }

    #[test]
    fn what_berth_decides_is_not_changed_by_the_base() {
        let base = json!({
            "ociVersion": "0.1", "root": {"path": "/base", "readonly": true}, "hostname": "base",
            "process": {
                "args": ["base", "more"], "cwd": "/base", "noNewPrivileges": true,
                "capabilities": {"bounding": ["CAP_SYS_ADMIN"]}, "apparmorProfile": "base",
                "oomScoreAdj": -999, "selinuxLabel": "base", "user": {"uid": 7, "umask": 63},
            },
            "linux": {
                "cgroupsPath": "/base", "namespaces": [{"type": "user"}], "seccomp": {},
                "maskedPaths": ["/base"], "readonlyPaths": ["/base"], "mountLabel": "base",
                "uidMappings": [{}], "rootfsPropagation": "rshared",
            },
        });
        assert_eq!(laid(&base, &spec()), laid(&json!({}), &spec()));
    }

    #[test]
    fn new_limits_leave_everything_else_as_it_is() {
        let base = json!({
            "process": {"ioPriority": {"class": "IOPRIO_CLASS_IDLE"}},
            "linux": {"resources": {
                "blockIO": {"weight": 10}, "memory": {"limit": 1, "reservation": 5},
                "hugepageLimits": [{"pageSize": "2MB", "limit": 1}],
            }, "personality": {"domain": "LINUX32"}},
        });
        let text = over_base(&base, &spec()).unwrap();
        let mut spec = crate::from_json(&text).unwrap();
        spec.linux.resources.memory.limit = Some(7);
        spec.linux.resources.hugepage_limits[0].limit = 9;
        spec.process.as_mut().unwrap().oom_score_adj = Some(3);
        let mut wanted: Value = serde_json::from_slice(&text).unwrap();
        wanted["linux"]["resources"]["memory"]["limit"] = 7.into();
        wanted["linux"]["resources"]["hugepageLimits"][0]["limit"] = 9.into();
        wanted["process"]["oomScoreAdj"] = 3.into();
        let limited = with_limits(&text, &spec).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&limited).unwrap(), wanted);
        assert!(with_limits(b"{", &spec).is_err());
    }

    #[test]
    fn a_base_s_device_rules_follow_ours_and_none_is_for_everything() {
        let mut spec = spec();
        spec.linux.resources.devices = crate::devices::default_rules();
        let own = spec.linux.resources.devices.len();
        let base = json!({"linux": {"resources": {"devices": [
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "a", "major": -1, "minor": -1, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm"},
        ]}}});
        let whole = laid(&base, &spec);
        let rules = whole["linux"]["resources"]["devices"].as_array().unwrap();
        assert_eq!(rules.len(), own + 1);
        assert_eq!(rules[own]["minor"], 229);
    }
}
