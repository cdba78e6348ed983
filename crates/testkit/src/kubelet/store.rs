//! What the stand-in API server keeps: objects by their paths, and everything that ever happened
//! to them, for who watches.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::path::{self, Address};

/// Creations and deletions all have one time: nothing here measures any.
const THEN: &str = "2026-01-01T00:00:00Z";

/// A change, as a watch tells it.
#[derive(Clone, Debug)]
pub(super) struct Change {
    /// The object's version after it.
    pub(super) version: u64,
    /// ADDED, MODIFIED or DELETED.
    pub(super) kind: &'static str,
    /// Where the object is.
    pub(super) address: Address,
    /// The object.
    pub(super) object: Value,
}

#[derive(Debug, Default)]
struct Kept {
    version: u64,
    objects: BTreeMap<Address, Value>,
    changes: Vec<Change>,
}

/// The objects.
#[derive(Debug)]
pub(super) struct Store {
    kept: Mutex<Kept>,
    version: watch::Sender<u64>,
}

/// Why a request is refused: an HTTP status and Kubernetes' reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// There is none.
    NotFound,
    /// There is one already.
    AlreadyExists,
}

impl Store {
    pub(super) fn new() -> Self {
        Self { kept: Mutex::default(), version: watch::Sender::new(0) }
    }

    /// Wakes with every change.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    pub(super) fn get(&self, at: &Address) -> Option<Value> {
        self.kept().objects.get(at).cloned()
    }

    /// The objects of a collection, and the version as of which these are all.
    pub(super) fn list(&self, of: &Address) -> (u64, Vec<Value>) {
        let kept = self.kept();
        let own = kept.objects.iter().filter(|(at, _)| of.holds(at));
        (kept.version, own.map(|(_, object)| object.clone()).collect())
    }

    /// What happened in a collection after a version, and the version now.
    pub(super) fn since(&self, of: &Address, version: u64) -> (u64, Vec<Change>) {
        let kept = self.kept();
        let new = kept.changes.iter().filter(|change| change.version > version);
        (kept.version, new.filter(|change| of.holds(&change.address)).cloned().collect())
    }

    /// Adds an object, with what a server fills in.
    pub(super) fn create(&self, at: &Address, mut object: Value) -> Result<Value, Refused> {
        let mut kept = self.kept();
        if kept.objects.contains_key(at) {
            return Err(Refused::AlreadyExists);
        }
        object["apiVersion"] = json!(at.version());
        object["kind"] = json!(path::kind(&at.resource));
        let metadata = &mut object["metadata"];
        metadata["name"] = json!(at.name);
        if !at.namespace.is_empty() {
            metadata["namespace"] = json!(at.namespace);
        }
        // Mirror pods and the like bring their own; all others get what tells them from the last.
        let unique = format!("00000000-0000-4000-8000-{:012}", kept.version + 1);
        for (key, value) in [("uid", json!(unique)), ("generation", json!(1))] {
            if metadata[key].is_null() {
                metadata[key] = value;
            }
        }
        metadata["creationTimestamp"] = json!(THEN);
        Ok(self.put(&mut kept, "ADDED", at, object))
    }

    /// Changes an object as `change` says.
    pub(super) fn modify(
        &self,
        at: &Address,
        change: impl FnOnce(&mut Value),
    ) -> Result<Value, Refused> {
        let mut kept = self.kept();
        let mut object = kept.objects.get(at).cloned().ok_or(Refused::NotFound)?;
        change(&mut object);
        Ok(self.put(&mut kept, "MODIFIED", at, object))
    }

    /// As [`Store::modify`], of what its owner wishes: a new generation.
    pub(super) fn wish(
        &self,
        at: &Address,
        change: impl FnOnce(&mut Value),
    ) -> Result<Value, Refused> {
        self.modify(at, |object| {
            change(object);
            let generation = object["metadata"]["generation"].as_u64().unwrap_or_default();
            object["metadata"]["generation"] = json!(generation + 1);
        })
    }

    /// Asks for a pod's end: it goes when its kubelet says that it has ended.
    pub(super) fn ask_to_go(&self, at: &Address) -> Result<Value, Refused> {
        self.wish(at, |pod| {
            let grace = pod["spec"]["terminationGracePeriodSeconds"].clone();
            pod["metadata"]["deletionTimestamp"] = json!(THEN);
            pod["metadata"]["deletionGracePeriodSeconds"] = grace;
        })
    }

    pub(super) fn delete(&self, at: &Address) -> Result<Value, Refused> {
        let mut kept = self.kept();
        let object = kept.objects.remove(at).ok_or(Refused::NotFound)?;
        let object = self.put(&mut kept, "DELETED", at, object);
        kept.objects.remove(at);
        Ok(object)
    }

    fn put(&self, kept: &mut Kept, kind: &'static str, at: &Address, mut object: Value) -> Value {
        kept.version += 1;
        object["metadata"]["resourceVersion"] = json!(kept.version.to_string());
        kept.objects.insert(at.clone(), object.clone());
        let change =
            Change { version: kept.version, kind, address: at.clone(), object: object.clone() };
        kept.changes.push(change);
        self.version.send_replace(kept.version);
        object
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Applies a merge patch (RFC 7396), or a strategic one as far as a kubelet's need it: lists of
/// some names are merged by a key of their elements.
pub(super) fn patch(target: &mut Value, patch: &Value) {
    let Some(changes) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (name, change) in changes {
        let key = match name.as_str() {
            "conditions" | "addresses" => Some("type"),
            "podIPs" => Some("ip"),
            _ => None,
        };
        match (change, key) {
            // Directives on the order of lists, and on which keys stay.
            _ if name.starts_with('$') => {}
            (Value::Null, _) => drop(target.as_object_mut().map(|object| object.remove(name))),
            (Value::Array(elements), Some(key)) => merge(&mut target[name], elements, key),
            _ => self::patch(&mut target[name], change),
        }
    }
}

fn merge(target: &mut Value, elements: &[Value], key: &str) {
    let mut merged = target.as_array().cloned().unwrap_or_default();
    for element in elements {
        let place = merged.iter().position(|own| own[key] == element[key]);
        match (place, element["$patch"] == "delete") {
            (Some(place), true) => drop(merged.remove(place)),
            (Some(place), false) => patch(&mut merged[place], element),
            (None, true) => {}
            (None, false) => merged.push(element.clone()),
        }
    }
    *target = Value::Array(merged);
}

/// The object of a manifest and where it belongs.
pub(super) fn placed(mut object: Value) -> Result<(Address, Value)> {
    let kind = object["kind"].as_str().context("a kind")?.to_owned();
    let version = object["apiVersion"].as_str().context("an apiVersion")?.to_owned();
    let name = object["metadata"]["name"].as_str().context("a name")?.to_owned();
    let at = path::of_object(&version, &kind, &name)?;
    if kind == "Pod" {
        super::defaults::pod(&mut object);
    }
    Ok((at, object))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_merges_conditions_by_type_and_replaces_other_lists() {
        let mut status = json!({
            "conditions": [{"type": "Ready", "status": "False"}, {"type": "Old", "status": "True"}],
            "containerStatuses": [{"name": "a"}, {"name": "b"}], "reason": "gone",
        });
        let change = json!({
            "$setElementOrder/conditions": [{"type": "Ready"}],
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "New", "status": "True"},
                {"$patch": "delete", "type": "Old"}],
            "containerStatuses": [{"name": "c"}], "reason": null,
        });
        patch(&mut status, &change);
        let expected = json!({
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "New", "status": "True"}],
            "containerStatuses": [{"name": "c"}],
        });
        assert_eq!(status, expected);
    }
}
