//! The pod's namespaces: the user namespace first, then network, IPC and UTS inside it, all pinned
//! by bind mounts, with host name and sysctls set.
//!
//! All of it is the kernel's and ours, so a thread of the daemon does it, which ends with it. Only a
//! user namespace needs a process, because a process of several threads cannot enter one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use berth_pod::Kind;
use berth_pod::record::{NamespacesFact, PodFact};
use berth_pod::spec::{IdMapping, PodOrNode};
use berth_sys::namespace::{self, Furnishing, Namespace};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{Context, Result, blocking, failed, helper};
use crate::convert::Fail as _;

/// Far more than these calls need, in debug builds too.
const STACK: usize = 256 << 10;

pub(super) async fn acquire(context: &Context) -> Result<PodFact> {
    let spec = &context.record.spec.spec;
    let paths = context.layout().namespaces(&context.record.id, spec);
    let fact = NamespacesFact {
        user: paths.user.clone(),
        net: paths.net.clone(),
        ipc: paths.ipc.clone(),
        uts: paths.uts.clone(),
    };
    let pins: Vec<_> = [
        (Namespace::User, paths.user),
        (Namespace::Net, paths.net),
        (Namespace::Ipc, paths.ipc),
        (Namespace::Uts, paths.uts),
    ]
    .into_iter()
    .filter_map(|(kind, path)| Some((kind, path?)))
    .collect();
    if pins.is_empty() {
        return Ok(PodFact::Namespaces(fact));
    }
    for (_, path) in &pins {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|e| ("make", parent, e).fail())?;
        }
    }
    let hostname = fact.uts.is_some().then(|| context.layout().hostname(spec).to_owned());
    let wanted = Wanted { pins, hostname, sysctls: sysctls(context) };
    if fact.user.is_some() {
        context.abortable(in_a_process(context, &wanted)).await?;
    } else {
        // Not abortable: what it did must be known before anything is undone.
        in_a_thread(wanted).await?;
    }
    Ok(PodFact::Namespaces(fact))
}

/// The namespaces to make, each with its pin, and what they are furnished with.
struct Wanted {
    pins: Vec<(Namespace, PathBuf)>,
    hostname: Option<String>,
    sysctls: BTreeMap<String, String>,
}

impl Wanted {
    fn loopback(&self) -> bool {
        self.pins.iter().any(|(kind, _)| *kind == Namespace::Net)
    }

    /// Makes and pins them; what an earlier try pinned goes first. The thread is of no use for
    /// anything else afterwards.
    fn make(&self) -> Result<()> {
        for (_, pin) in &self.pins {
            namespace::unpin(pin)?;
        }
        let kinds: Vec<_> = self.pins.iter().map(|(kind, _)| *kind).collect();
        let furnishing = Furnishing {
            hostname: self.hostname.as_deref(),
            sysctls: &self.sysctls,
            loopback: self.loopback(),
        };
        namespace::make(&kinds, &furnishing)?;
        for (kind, pin) in &self.pins {
            namespace::pin(format!("/proc/thread-self/ns/{}", kind.file()), pin)?;
        }
        Ok(())
    }
}

async fn in_a_thread(wanted: Wanted) -> Result<()> {
    let (tell, told) = oneshot::channel();
    let work = move || {
        let made = wanted.make();
        if made.is_err() {
            for (_, pin) in &wanted.pins {
                // The error that led here is the one to report; a later try removes stale pins.
                let _ = namespace::unpin(pin);
            }
        }
        let _ = tell.send(made);
    };
    let thread = std::thread::Builder::new().name("namespaces".into()).stack_size(STACK);
    if let Err(why) = thread.spawn(work) {
        return failed(Kind::Exhausted, format!("cannot start a thread for namespaces: {why}"));
    }
    match told.await {
        Ok(made) => made,
        Err(_) => failed(Kind::Broken, "the thread that makes namespaces panicked"),
    }
}

async fn in_a_process(context: &Context, wanted: &Wanted) -> Result<()> {
    let user = context.record.spec.spec.namespaces.user.as_ref();
    let pins: BTreeMap<_, _> = wanted.pins.iter().map(|(kind, pin)| (kind.file(), pin)).collect();
    let request = json!({
        "user": user.map(|u| json!({"uids": mappings(&u.uids), "gids": mappings(&u.gids)})),
        "pins": pins,
        "hostname": wanted.hostname,
        "sysctls": wanted.sysctls,
        "loopback": wanted.loopback(),
    });
    let deadline = context.settings().helper_deadline;
    helper::call(context, "namespaces", &request, deadline).await?;
    Ok(())
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
            namespace::unpin(&pin)?;
        }
        // Absent or still holding shm: both are fine.
        let _ = std::fs::remove_dir(&state);
        Ok(())
    })
    .await
}
