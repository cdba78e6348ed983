//! The pod's namespaces: the user namespace first, then network, IPC and UTS inside it, all pinned
//! by bind mounts, with host name and sysctls set.

use std::collections::BTreeMap;
use std::path::PathBuf;

use berth_pod::record::{NamespacesFact, PodFact};
use berth_pod::spec::{IdMapping, PodOrNode};
use serde_json::{Value, json};

use super::{Context, Result, blocking, helper};
use crate::convert::Fail as _;

pub(super) async fn acquire(context: &Context) -> Result<PodFact> {
    let spec = &context.record.spec.spec;
    let paths = context.layout().namespaces(&context.record.id, spec);
    let fact = NamespacesFact {
        user: paths.user.clone(),
        net: paths.net.clone(),
        ipc: paths.ipc.clone(),
        uts: paths.uts.clone(),
    };
    let pins = [("user", &fact.user), ("net", &fact.net), ("ipc", &fact.ipc), ("uts", &fact.uts)];
    let pins: BTreeMap<_, _> =
        pins.into_iter().filter_map(|(kind, path)| Some((kind, path.as_ref()?))).collect();
    if pins.is_empty() {
        return Ok(PodFact::Namespaces(fact));
    }
    for path in pins.values() {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|e| ("make", parent, e).fail())?;
        }
    }
    let layout = context.layout();
    let hostname = layout.hostname(spec);
    let request = json!({
        "user": spec.namespaces.user.as_ref().map(|u| json!({
            "uids": mappings(&u.uids),
            "gids": mappings(&u.gids),
        })),
        "pins": pins,
        "hostname": fact.uts.is_some().then_some(hostname),
        "sysctls": sysctls(context),
        "loopback": fact.net.is_some(),
    });
    let deadline = context.settings().helper_deadline;
    helper::call(context, "namespaces", &request, deadline).await?;
    Ok(PodFact::Namespaces(fact))
}

fn mappings(ranges: &[IdMapping]) -> Vec<Value> {
    let each = |m: &IdMapping| json!({"host_id": m.host_id, "container_id": m.container_id, "length": m.length});
    ranges.iter().map(each).collect()
}

/// The pod's own sysctls; before them the node's defaults, for a pod with a network of its own.
fn sysctls(context: &Context) -> BTreeMap<String, String> {
    let spec = &context.record.spec.spec;
    let mut all = BTreeMap::new();
    if spec.namespaces.network == PodOrNode::Pod {
        all.extend(context.settings().sysctls.clone());
    }
    all.extend(spec.sysctls.clone());
    all
}

pub(super) async fn release(context: &Context) -> Result<()> {
    let paths = context.layout().namespaces(&context.record.id, &context.record.spec.spec);
    let state = context.layout().sandbox_state(&context.record.id);
    blocking(move || {
        // The user namespace last: the others are owned by it.
        let pins: [Option<PathBuf>; 4] = [paths.net, paths.ipc, paths.uts, paths.user];
        for pin in pins.into_iter().flatten() {
            berth_sys::namespace::unpin(&pin)?;
        }
        // Absent or still holding shm: both are fine.
        let _ = std::fs::remove_dir(&state);
        Ok(())
    })
    .await
}
