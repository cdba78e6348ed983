//! The pod's shim: started in a leaf cgroup of its own, found again by the answer in its bundle.

use std::time::Duration;

use berth_cgroup::{Cgroup, Controller, Extent};
use berth_oci::facts::PodInput;
use berth_oci::{SandboxTask, cgroups_path, sandbox_spec, to_json};
use berth_pod::Kind;
use berth_pod::record::{PodFact, ShimFact};
use berth_shim_client::{
    Answer, Deadlines, Error as ShimError, Form, Generation, Kind as ShimKind, Launch, Shim,
    parse_answer, with_systemd,
};

use super::{Context, Result, blocking, bundle, cgroup, failed, sandbox, socket};
use crate::layout::text;
use crate::settings::{Handler, SandboxMode, ShimKind as Whose};

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
        && let Ok(fact) = adopt(context, &answer, &leaf).await
    {
        return Ok(PodFact::Shim(fact));
    }
    if bundle.exists() {
        clean_up(context, &leaf, &handler.shim).await?;
    }
    let as_task = as_task(handler);
    let config = config(context, as_task)?;
    let (at, made) = (bundle.clone(), leaf.clone());
    let group = bundle::group(&context.record.spec.spec);
    let rootfs = as_task || handler.kind == Whose::Other;
    blocking(move || {
        bundle::write(&at, &config, group)?;
        if rootfs {
            bundle::make_rootfs(&at)?;
        }
        Ok(made.create(Extent::Only(&LEAF))?)
    })
    .await?;
    if foreign(context) {
        context.shared.shim_logs.listen(id, &bundle)?;
    }
    let mut launch = launch(context, &handler.shim);
    launch.cgroups = enter_files(context, &leaf)?;
    let answer = start(context, launch, &leaf).await?;
    Ok(PodFact::Shim(adopt(context, &answer, &leaf).await?))
}

/// Is the pod's shim by others: then it knows nothing of our log.
pub(super) fn foreign(context: &Context) -> bool {
    match context.record.shim.held() {
        Some(fact) => fact.foreign,
        None => context.handler().is_ok_and(|handler| handler.kind == Whose::Other),
    }
}

/// Shims by others read one of two forms on stdin, and fail over the other: what each takes is
/// remembered.
async fn start(context: &Context, mut launch: Launch, leaf: &Cgroup) -> Result<Answer> {
    launch.form = context.shared.form_of(&launch.binary);
    let why = match launch.start().await {
        Err(why @ ShimError::Failed { .. }) if foreign(context) => why,
        done => return Ok(done?),
    };
    let rest = leaf.clone();
    blocking(move || cgroup::nobody(&rest, rest.kill(cgroup::KILL)?)).await?;
    launch.form = match launch.form {
        Form::Options => Form::Parameters,
        Form::Parameters => Form::Options,
    };
    match launch.start().await {
        Ok(answer) => {
            context.shared.takes(launch.binary, launch.form);
            Ok(answer)
        }
        // It was not the form.
        Err(_) => Err(why.into()),
    }
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
async fn adopt(context: &Context, answer: &Answer, leaf: &Cgroup) -> Result<ShimFact> {
    let (id, foreign) = (&context.record.id, foreign(context));
    if foreign {
        context.shared.shim_logs.listen(id, &context.layout().bundle(id.as_str()))?;
    }
    let shim = Shim::connect(answer, NAMESPACE, Deadlines::default()).await?;
    let binary = context.handler()?.shim.clone();
    let pid = match shim.process(id.as_str()).await {
        Ok(process) => Some(process.pid),
        // Some shims answer this only once they have a task.
        Err(why) if foreign && why.kind() != ShimKind::TimedOut => main_process(leaf, &binary),
        Err(why) => return Err(why.into()),
    };
    context.shared.connect(id, &shim);
    let number = pid.and_then(|pid| i32::try_from(pid).ok()).and_then(berth_sys::Pid::from_raw);
    Ok(ShimFact {
        address: answer.address.to_string(),
        version: match answer.generation {
            Generation::V2 => 2,
            Generation::V3 => 3,
        },
        binary,
        pid,
        foreign,
        pid_start: number.and_then(|pid| berth_sys::process::start_time(pid).ok()),
    })
}

/// The one process in a shim's leaf that runs its binary.
fn main_process(leaf: &Cgroup, binary: &std::path::Path) -> Option<u32> {
    let binary = std::fs::canonicalize(binary).ok()?;
    let runs =
        |pid: &u32| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == binary);
    let members = leaf.processes().ok()?;
    let mut own = members.iter().map(|pid| pid.as_raw_nonzero().get().unsigned_abs()).filter(runs);
    let first = own.next()?;
    own.next().is_none().then_some(first)
}

/// May the sandbox be a task, with a root file system and a process by its spec?
fn as_task(handler: &Handler) -> bool {
    match handler.sandbox {
        SandboxMode::Task => true,
        SandboxMode::Sandbox => false,
        // Whoever has the Sandbox API starts no process by this.
        SandboxMode::Auto => handler.kind == Whose::Other,
    }
}

/// The spec by which any shim learns about the pod.
fn config(context: &Context, as_task: bool) -> Result<Vec<u8>> {
    let (record, layout) = (&context.record, context.layout());
    let namespaces = layout.namespaces(&record.id, &record.spec.spec);
    let files = layout.files(&record.id, &record.spec.spec);
    let Some(cgroup) = record.cgroup.held() else {
        return failed(Kind::Broken, "the pod's cgroup is not held");
    };
    let node = cgroup::node(context);
    let pod = PodInput {
        id: &record.id,
        spec: &record.spec.spec,
        hostname: layout.hostname(&record.spec.spec),
        namespaces: &namespaces,
        files: &files,
        cgroup: &cgroup.path,
        handler: &context.handler()?.facts,
        node: &node,
    };
    let own = cgroups_path(node.cgroup_driver, &cgroup.path, record.id.as_str())?;
    let cgroups_path = if as_task { &own } else { &cgroup.path };
    let task = SandboxTask { cgroups_path, rootfs: bundle::ROOTFS.as_ref(), image: "", as_task };
    Ok(to_json(&sandbox_spec(&pod, &task)?)?)
}

fn launch(context: &Context, binary: &std::path::Path) -> Launch {
    let id = &context.record.id;
    Launch {
        binary: binary.to_owned(),
        bundle: context.layout().bundle(id.as_str()),
        id: id.to_string(),
        namespace: NAMESPACE.into(),
        // Our own shim has nothing to tell that it is not asked for.
        events_address: if foreign(context) {
            text(&context.layout().events())
        } else {
            String::new()
        },
        daemon_address: String::new(),
        publish_binary: context.settings().daemon.clone(),
        debug: false,
        env: std::env::var_os("PATH").map(|path| ("PATH".into(), path)).into_iter().collect(),
        cgroups: context.shared.jobs_enter.clone(),
        oom_score_adj: context.settings().shim_oom_score_adj,
        options: foreign(context).then(|| options(context)).flatten(),
        form: Form::Options,
        deadline: LAUNCH,
    }
}

/// What a shim by others is told.
pub(super) fn options(context: &Context) -> Option<berth_shim_client::Any> {
    let handler = context.handler().ok()?;
    let options = handler.options.clone().map(Into::into);
    match cgroup::by_systemd(context) {
        // They were encoded by us: if they cannot be read, the shim is to say it.
        true => with_systemd(options.clone(), &handler.shim).unwrap_or(options),
        false => options,
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
    run_delete(context, &launch).await
}

/// What a shim by others cannot clean up is not ours to know: its processes and mounts are gone all
/// the same, and the runtime's notes of a container that never was are no reason to keep a pod.
async fn run_delete(context: &Context, launch: &Launch) -> Result<()> {
    match launch.delete().await {
        Err(why @ (ShimError::Failed { .. } | ShimError::Answer { .. })) if foreign(context) => {
            let (pod, id) = (&context.record.id, &launch.id);
            tracing::warn!(%pod, id, error = %why, "the shim's binary could not clean up after it");
            Ok(())
        }
        done => Ok(done.map(drop)?),
    }
}

/// The connection to the pod's shim: the one there is, or a new one.
pub(crate) async fn connection(context: &Context) -> Result<Shim> {
    if context.rebooted() {
        return failed(Kind::Unavailable, "the node was rebooted: the pod's shim is gone");
    }
    match context.shared.connected(&context.record.id) {
        Some(shim) => Ok(shim),
        // Boxed: a watch, which begins with this, would keep room for it as long as the pod lives.
        None => Box::pin(dial(context)).await,
    }
}

async fn dial(context: &Context) -> Result<Shim> {
    let id = &context.record.id;
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
    if fact.foreign {
        context.shared.shim_logs.listen(id, &context.layout().bundle(id.as_str()))?;
    }
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
            Ok(shim) => sandbox::shut_down(context, &shim).await,
            Err(why) => Err(why),
        };
        let ended = asked.is_ok() && ended(context, &leaf).await?;
        if let (false, Some(binary)) = (ended, &binary) {
            clean_up(context, &leaf, binary).await?;
        }
    }
    context.shared.disconnect(id);
    cgroup::clear(leaf).await?;
    // Now nobody listens there any more.
    socket::remove(context).await?;
    context.shared.shim_logs.end(id);
    bundle::clear(context, &context.layout().bundle(id.as_str())).await
}

/// Removes what our shim was started with and what it answered, once the record is saved that tells
/// that it runs: all of it lies in memory. A shim by others may still need these files, and the runtime
/// of a sandbox that is a task its bundle.
pub(super) fn forget_start(context: &Context) {
    let Some(sandbox) = context.record.sandbox.held().filter(|_| !foreign(context)) else { return };
    let bundle = context.layout().bundle(context.record.id.as_str());
    Launch::forget_answer(&bundle);
    if !sandbox.as_task {
        // What stays goes with the bundle.
        let _ = std::fs::remove_file(bundle.join(bundle::CONFIG));
    }
}

/// The same at the end of a pod: a shim by others that has nothing more to run is killed for one call
/// that it leaves unanswered. Ours answers all but what its OCI runtime hangs in, and whoever comes
/// after it meets the same runtime.
pub(super) async fn put_down_at_the_end(context: &Context, id: &str) -> Result<bool> {
    if !foreign(context) || context.record.containers.values().any(|c| c.running()) {
        return put_down_if_silent(context, id).await;
    }
    put_down(context, id).await?;
    Ok(true)
}

/// Kills a shim that lives and says nothing: whoever waits for it would wait for ever. True if it
/// was killed.
pub(super) async fn put_down_if_silent(context: &Context, container: &str) -> Result<bool> {
    if answers(context, container).await {
        return Ok(false);
    }
    put_down(context, container).await?;
    Ok(true)
}

async fn put_down(context: &Context, id: &str) -> Result<()> {
    let pod = &context.record.id;
    tracing::warn!(%pod, id, "the shim does not answer: it is killed");
    context.shared.disconnect(pod);
    cgroup::clear(context.shared.cgroups.at(&context.layout().shim_cgroup(pod))?).await
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

/// Kills a shim that cannot be asked, and has its binary clean up.
async fn clean_up(context: &Context, leaf: &Cgroup, binary: &std::path::Path) -> Result<()> {
    context.shared.disconnect(&context.record.id);
    cgroup::clear(leaf.clone()).await?;
    let bundle = context.layout().bundle(context.record.id.as_str());
    if bundle.exists() {
        run_delete(context, &launch(context, binary)).await?;
    }
    socket::remove(context).await?;
    let answer = Launch::answer_file(&bundle);
    match std::fs::remove_file(&answer) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            failed(Kind::Broken, format!("cannot remove {}: {e}", text(&answer)))
        }
        _ => Ok(()),
    }
}
