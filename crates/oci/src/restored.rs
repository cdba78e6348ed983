//! Whether a checkpoint may become the container that is asked for. Its processes come with all that
//! they were: what they may do must be no more than the request lets them, and what is mounted must
//! be the same, for CRIU mounts what the checkpoint had and nothing else.
//!
//! The checkpoint's spec is its own word: this finds mistakes, not forgeries.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::Error;

/// Compares the spec that the request leads to with the one that the checkpoint was written of, both
/// as JSON.
///
/// # Errors
/// Invalid, with what differs.
pub fn check_restored(asked: &Value, dumped: &Value) -> Result<(), Error> {
    mounts(asked, dumped)?;
    namespaces(asked, dumped)?;
    for (field, pointer) in SAME {
        let (ours, theirs) = (of(asked, pointer), of(dumped, pointer));
        // A false, a 0 and an empty text may be left out.
        if ours != theirs && !(is_none(&ours) && is_none(&theirs)) {
            let text = format!("{ours} is asked for, and the checkpoint has {theirs}");
            return Err(Error::invalid(field, text));
        }
    }
    for (field, pointer) in NO_MORE {
        let (ours, theirs) = (strings(&of(asked, pointer)), strings(&of(dumped, pointer)));
        if let Some(more) = theirs.difference(&ours).next() {
            let text = format!("the checkpoint has {more}, which is not asked for");
            return Err(Error::invalid(field, text));
        }
    }
    for (field, pointer) in NO_LESS {
        let (ours, theirs) = (strings(&of(asked, pointer)), strings(&of(dumped, pointer)));
        if let Some(less) = ours.difference(&theirs).next() {
            let text = format!("{less} is asked for, and the checkpoint was without");
            return Err(Error::invalid(field, text));
        }
    }
    for (field, pointer) in CONFINED {
        if !is_none(&of(asked, pointer)) && is_none(&of(dumped, pointer)) {
            return Err(Error::invalid(field, "is asked for, and the checkpoint was without"));
        }
    }
    Ok(())
}

/// What must be the same.
const SAME: [(&str, &str); 5] = [
    ("tty", "/process/terminal"),
    ("run_as_user", "/process/user/uid"),
    ("run_as_group", "/process/user/gid"),
    ("apparmor", "/process/apparmorProfile"),
    ("selinux_options", "/process/selinuxLabel"),
];

/// Of what the checkpoint may have less.
const NO_MORE: [(&str, &str); 2] = [
    ("capabilities", "/process/capabilities/bounding"),
    ("supplemental_groups", "/process/user/additionalGids"),
];

/// Of what the checkpoint may have more.
const NO_LESS: [(&str, &str); 2] =
    [("masked_paths", "/linux/maskedPaths"), ("readonly_paths", "/linux/readonlyPaths")];

/// What the checkpoint may have in addition.
const CONFINED: [(&str, &str); 3] = [
    ("no_new_privs", "/process/noNewPrivileges"),
    ("seccomp_profile", "/linux/seccomp"),
    ("readonly_rootfs", "/root/readonly"),
];

fn of(spec: &Value, pointer: &str) -> Value {
    spec.pointer(pointer).cloned().unwrap_or_default()
}

fn is_none(value: &Value) -> bool {
    value.is_null() || value == &Value::from(0) || value == false || value == ""
}

/// Texts and numbers, as texts.
fn strings(list: &Value) -> BTreeSet<String> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let one = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    list.iter().map(one).collect()
}

fn mounts(asked: &Value, dumped: &Value) -> Result<(), Error> {
    let (ours, theirs) = (bound(asked), bound(dumped));
    for (at, writable) in &theirs {
        match ours.get(at) {
            None => {
                let text = format!("the checkpoint has a mount at {at}: mount the same there");
                return Err(Error::invalid("mounts", text));
            }
            Some(false) if *writable => {
                let text =
                    format!("{at} is asked for read-only, and the checkpoint can write there");
                return Err(Error::invalid("mounts", text));
            }
            Some(_) => {}
        }
    }
    match ours.keys().find(|at| !theirs.contains_key(*at)) {
        Some(more) => {
            let text = format!("the checkpoint has no mount at {more}: leave it out");
            Err(Error::invalid("mounts", text))
        }
        None => Ok(()),
    }
}

/// Where something of the node is mounted, and whether it can be written to.
fn bound(spec: &Value) -> BTreeMap<String, bool> {
    let all = spec["mounts"].as_array().map(Vec::as_slice).unwrap_or_default();
    // Some write no type, and say it in the options alone.
    let is_bind = |mount: &&Value| {
        let options = strings(&mount["options"]);
        mount["type"] == "bind" || options.contains("bind") || options.contains("rbind")
    };
    let one = |mount: &Value| {
        let at = mount["destination"].as_str()?.trim_end_matches('/').to_owned();
        Some((at, !strings(&mount["options"]).contains("ro")))
    };
    all.iter().filter(is_bind).filter_map(one).collect()
}

fn namespaces(asked: &Value, dumped: &Value) -> Result<(), Error> {
    // Whether there is one, and whether it is joined.
    let kinds = |spec: &Value| -> BTreeSet<(String, bool)> {
        let all = spec.pointer("/linux/namespaces").and_then(Value::as_array);
        let one = |ns: &Value| {
            let joined = ns["path"].as_str().is_some_and(|path| !path.is_empty());
            Some((ns["type"].as_str()?.to_owned(), joined))
        };
        all.into_iter().flatten().filter_map(one).collect()
    };
    let (ours, theirs) = (kinds(asked), kinds(dumped));
    match ours.symmetric_difference(&theirs).next() {
        Some((kind, _)) => {
            let text = format!("the checkpoint was otherwise with its {kind} namespace");
            Err(Error::invalid("namespace_options", text))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec() -> Value {
        json!({
            "process": {
                "user": {"uid": 7, "gid": 8, "additionalGids": [8, 9]},
                "noNewPrivileges": true,
                "capabilities": {"bounding": ["CAP_KILL"]},
            },
            "mounts": [
                {"type": "proc", "destination": "/proc"},
                {"type": "bind", "destination": "/etc/hosts", "source": "/a", "options": ["ro"]},
            ],
            "root": {"path": "rootfs", "readonly": true},
            "linux": {
                "maskedPaths": ["/proc/kcore"],
                "readonlyPaths": ["/proc/sys"],
                "seccomp": {"defaultAction": "SCMP_ACT_ERRNO"},
                "namespaces": [{"type": "pid"}, {"type": "network", "path": "/run/netns/a"}],
            },
        })
    }

    #[test]
    fn the_same_elsewhere_may_be_restored() {
        let mut elsewhere = spec();
        elsewhere["mounts"][1]["source"] = "/b".into();
        elsewhere["linux"]["namespaces"][1]["path"] = "/run/netns/b".into();
        elsewhere["process"]["terminal"] = false.into();
        assert_eq!(check_restored(&elsewhere, &spec()), Ok(()));
    }

    #[test]
    fn nothing_weaker_and_nothing_else_is_restored() {
        for (pointer, value, field) in [
            ("/process/user/uid", json!(0), "run_as_user"),
            ("/process/user/gid", json!(0), "run_as_group"),
            ("/process/noNewPrivileges", json!(false), "no_new_privs"),
            (
                "/process/capabilities/bounding",
                json!(["CAP_KILL", "CAP_SYS_ADMIN"]),
                "capabilities",
            ),
            ("/process/user/additionalGids", json!([8, 9, 10]), "supplemental_groups"),
            ("/process/apparmorProfile", json!("other"), "apparmor"),
            ("/process/selinuxLabel", json!("other"), "selinux_options"),
            ("/linux/seccomp", json!(null), "seccomp"),
            ("/linux/maskedPaths", json!([]), "masked_paths"),
            ("/linux/readonlyPaths", json!(["/proc/irq"]), "readonly_paths"),
            ("/root/readonly", json!(false), "readonly_rootfs"),
            ("/mounts/1/options", json!(["rw"]), "mounts"),
            ("/mounts/1/destination", json!("/etc/other"), "mounts"),
            ("/mounts", json!([]), "mounts"),
            ("/linux/namespaces/0/path", json!("/proc/1/ns/pid"), "namespace_options"),
            ("/linux/namespaces", json!([{"type": "pid"}]), "namespace_options"),
        ] {
            let mut dumped = spec();
            dumped["linux"]["namespaces"][0]["path"] = "".into();
            dumped["process"]["apparmorProfile"] = "".into();
            dumped["process"]["selinuxLabel"] = "".into();
            *dumped.pointer_mut(pointer).unwrap() = value;
            let why = check_restored(&spec(), &dumped).unwrap_err();
            assert!(why.to_string().starts_with(field), "{pointer}: {why}");
        }
        let mut less = spec();
        less["process"]["capabilities"]["bounding"] = json!([]);
        assert_eq!(check_restored(&spec(), &less), Ok(()), "less than asked for is fine");
    }
}
