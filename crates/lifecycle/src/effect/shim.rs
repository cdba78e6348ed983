//! The pod's shim: started in a leaf cgroup of its own, found again by the answer in its bundle.

use std::time::Duration;

use berth_cgroup::{Cgroup, Controller, Extent};
use berth_oci::facts::PodInput;
use berth_oci::{SandboxTask, sandbox_spec, to_json};
use berth_pod::Kind;
use berth_pod::record::{PodFact, ShimFact};
use berth_shim_client::{
    Address, Answer, Deadlines, Generation, Kind as ShimKind, Launch, Shim, parse_answer,
};

use super::{Context, Result, Trouble, blocking, bundle, cgroup, failed};
use crate::layout::text;

/// The containerd namespace that shims are told: everything of Kubernetes is in this one.
pub(crate) const NAMESPACE: &str = "k8s.io";

/// How long `start` and `delete` may take.
const LAUNCH: Duration = Duration::from_secs(60);

/// How long a shim may take to end after it was told to.
const END: Duration = Duration::from_secs(5);

/// v1: where each shim has a leaf, so that it is found and killed with what it started. One in the
/// memory controller would cost the kernel 16 KB, and nobody asks what a single shim takes.
const LEAF: [Controller; 2] = [Controller::Freezer, Controller::Systemd];

/// v1: where all shims together are members, and not of the daemon's own cgroup.
pub(crate) const SHIMS: [Controller; 5] = [
    Controller::Memory,
    Controller::Cpu,
    Controller::Pids,
    Controller::Freezer,
    Controller::Systemd,
];

pub(super) async fn acquire(context: &Context) -> Result<PodFact> {
    let id = &context.record.id;
    let bundle = context.layout().bundle(id.as_str());
    let leaf = context.shared.cgroups.at(&context.layout().shim_cgroup(id))?;
    let handler = context.handler()?;
    if let Ok(Some(answer)) = Launch::earlier_answer(&bundle)
        && let Ok(fact) = adopt(context, &answer).await
    {
        return Ok(PodFact::Shim(fact));
    }
    if bundle.exists() {
        clean_up(context, &leaf, &handler.shim).await?;
    }
    let config = config(context)?;
    let (at, made) = (bundle.clone(), leaf.clone());
    blocking(move || {
        bundle::write(&at, &config)?;
        Ok(made.create(Extent::Only(&LEAF))?)
    })
    .await?;
    let mut launch = launch(context, &handler.shim);
    launch.cgroups = enter_files(context, &leaf)?;
    let answer = launch.start().await?;
    Ok(PodFact::Shim(adopt(context, &answer).await?))
}

/// The leaf's, and those of all shims where there is no leaf.
fn enter_files(context: &Context, leaf: &Cgroup) -> Result<Vec<std::path::PathBuf>> {
    let mut files = leaf.enter_files();
    let shims = context.shared.cgroups.at(&context.layout().shims_cgroup())?.enter_files();
    let above = |file: &std::path::Path| Some(file.parent()?.parent()?.to_owned());
    let leaves: Vec<_> = files.iter().filter_map(|file| above(file)).collect();
    files.extend(shims.into_iter().filter(|file| {
        file.parent().is_some_and(|shims| !leaves.iter().any(|above| above == shims))
    }));
    Ok(files)
}

/// Connects to a shim that has answered, and learns which process it is.
async fn adopt(context: &Context, answer: &Answer) -> Result<ShimFact> {
    let id = &context.record.id;
    let shim = Shim::connect(answer, NAMESPACE, Deadlines::default()).await?;
    let process = shim.process(id.as_str()).await?;
    context.shared.connect(id, &shim);
    let number = i32::try_from(process.pid).ok().and_then(berth_sys::Pid::from_raw);
    Ok(ShimFact {
        address: answer.address.to_string(),
        version: match answer.generation {
            Generation::V2 => 2,
            Generation::V3 => 3,
        },
        binary: context.handler()?.shim.clone(),
        pid: Some(process.pid),
        pid_start: number.and_then(|pid| berth_sys::process::start_time(pid).ok()),
    })
}

/// The spec by which any shim learns about the pod.
fn config(context: &Context) -> Result<Vec<u8>> {
    let (record, layout) = (&context.record, context.layout());
    let namespaces = layout.namespaces(&record.id, &record.spec.spec);
    let files = layout.files(&record.id, &record.spec.spec);
    let Some(cgroup) = record.cgroup.held() else {
        return failed(Kind::Broken, "the pod's cgroup is not held");
    };
    let rootfs = layout.bundle(record.id.as_str()).join("rootfs");
    let pod = PodInput {
        id: &record.id,
        spec: &record.spec.spec,
        hostname: layout.hostname(&record.spec.spec),
        namespaces: &namespaces,
        files: &files,
        cgroup: &cgroup.path,
        handler: &context.handler()?.facts,
        node: &context.settings().node,
    };
    let task =
        SandboxTask { cgroups_path: &cgroup.path, rootfs: &rootfs, image: "", as_task: false };
    Ok(to_json(&sandbox_spec(&pod, &task)?)?)
}

fn launch(context: &Context, binary: &std::path::Path) -> Launch {
    let id = &context.record.id;
    Launch {
        binary: binary.to_owned(),
        bundle: context.layout().bundle(id.as_str()),
        id: id.to_string(),
        namespace: NAMESPACE.into(),
        events_address: String::new(),
        daemon_address: String::new(),
        publish_binary: context.settings().daemon.clone(),
        debug: false,
        env: std::env::var_os("PATH").map(|path| ("PATH".into(), path)).into_iter().collect(),
        cgroups: context.shared.jobs_enter.clone(),
        oom_score_adj: context.settings().shim_oom_score_adj,
        stdin: Vec::new(),
        deadline: LAUNCH,
    }
}

/// `delete` for a container, or the sandbox, of a shim that is dead.
pub(super) async fn delete(context: &Context, id: &str) -> Result<()> {
    let bundle = context.layout().bundle(id);
    if !bundle.exists() {
        return Ok(());
    }
    let binary = match context.record.shim.held() {
        Some(fact) => fact.binary.clone(),
        None => context.handler()?.shim.clone(),
    };
    let launch = Launch { id: id.to_owned(), bundle, ..launch(context, &binary) };
    launch.delete().await?;
    Ok(())
}

/// The connection to the pod's shim: the one there is, or a new one.
pub(crate) async fn connection(context: &Context) -> Result<Shim> {
    let id = &context.record.id;
    if context.rebooted() {
        return failed(Kind::Unavailable, "the node was rebooted: the pod's shim is gone");
    }
    if let Some(shim) = context.shared.connected(id) {
        return Ok(shim);
    }
    let Some(fact) = context.record.shim.held() else {
        return failed(Kind::Unavailable, "the pod has no shim");
    };
    // Several jobs of a pod want it at once after a restart.
    let turn = context.shared.dial(id);
    let _turn = turn.lock().await;
    if let Some(shim) = context.shared.connected(id) {
        return Ok(shim);
    }
    let json = format!(
        r#"{{"version":{},"protocol":"ttrpc","address":{}}}"#,
        fact.version,
        serde_json::Value::from(fact.address.as_str())
    );
    let shim =
        Shim::connect(&parse_answer(json.as_bytes())?, NAMESPACE, Deadlines::default()).await?;
    context.shared.connect(id, &shim);
    Ok(shim)
}

/// Ends the shim, and with it its leaf and its bundle.
pub(super) async fn release(context: &Context) -> Result<()> {
    let id = &context.record.id;
    let leaf = context.shared.cgroups.at(&context.layout().shim_cgroup(id))?;
    let binary = match context.record.shim.held() {
        Some(fact) => Some(fact.binary.clone()),
        None => context.handler().ok().map(|h| h.shim.clone()),
    };
    if !context.rebooted() {
        let asked = match connection(context).await {
            Ok(shim) => shim.shutdown_sandbox(id.as_str()).await.map_err(Trouble::from),
            Err(why) => Err(why),
        };
        let ended = asked.is_ok() && ended(context, &leaf).await?;
        if ended {
            remove_socket(context)?;
        } else if let Some(binary) = &binary {
            clean_up(context, &leaf, binary).await?;
        }
    }
    context.shared.disconnect(id);
    cgroup::clear(leaf).await?;
    bundle::clear(context, &context.layout().bundle(id.as_str())).await
}

/// Kills a shim that lives and says nothing: whoever waits for it would wait for ever. True if it
/// was killed.
pub(super) async fn put_down_if_silent(context: &Context, container: &str) -> Result<bool> {
    if answers(context, container).await {
        return Ok(false);
    }
    let pod = &context.record.id;
    tracing::warn!(%pod, container, "the shim does not answer: it is killed");
    context.shared.disconnect(pod);
    cgroup::clear(context.shared.cgroups.at(&context.layout().shim_cgroup(pod))?).await?;
    Ok(true)
}

/// Does the shim say anything about this container, if need be over a new connection.
async fn answers(context: &Context, container: &str) -> bool {
    for _ in 0..2 {
        let Ok(shim) = connection(context).await else { return false };
        match shim.state(container, None).await {
            Ok(_) => return true,
            Err(why) if why.kind() == ShimKind::Unavailable => {
                context.shared.disconnect(&context.record.id);
            }
            Err(why) => return why.kind() != ShimKind::TimedOut,
        }
    }
    false
}

/// Waits until the leaf is empty.
async fn ended(context: &Context, leaf: &Cgroup) -> Result<bool> {
    if let Some(fact) = context.record.shim.held()
        && let Some(pidfd) = super::exit::shim_pidfd(fact)
    {
        return blocking(move || Ok(berth_sys::pidfd::wait_exited(&pidfd, END)?)).await;
    }
    Ok(leaf.processes().is_ok_and(|p| p.is_empty()))
}

/// A shim removes its socket as the last thing it does; one that is killed on its way out does not.
fn remove_socket(context: &Context) -> Result<()> {
    let Some(fact) = context.record.shim.held() else { return Ok(()) };
    let Ok(Address::Path(path)) = Address::parse(&fact.address) else { return Ok(()) };
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            failed(Kind::Broken, format!("cannot remove {}: {e}", text(&path)))
        }
        _ => Ok(()),
    }
}

/// Kills a shim that cannot be asked, and has its binary clean up.
async fn clean_up(context: &Context, leaf: &Cgroup, binary: &std::path::Path) -> Result<()> {
    context.shared.disconnect(&context.record.id);
    cgroup::clear(leaf.clone()).await?;
    let bundle = context.layout().bundle(context.record.id.as_str());
    if bundle.join("config.json").exists() {
        launch(context, binary).delete().await?;
    }
    let answer = Launch::answer_file(&bundle);
    match std::fs::remove_file(&answer) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            failed(Kind::Broken, format!("cannot remove {}: {e}", text(&answer)))
        }
        _ => Ok(()),
    }
}
