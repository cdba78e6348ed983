//! The sandbox in the shim: by the Sandbox API, or as a task that runs the built-in pause; and the
//! watch over its life.

use std::sync::Arc;

use berth_pod::Kind;
use berth_pod::job::Outcome;
use berth_pod::record::{Lost, PodFact, SandboxFact};
use berth_pod::spec::PidMode;
use berth_shim_client::{
    Any, Create, CreateSandbox, Error as ShimError, Exited, Kind as ShimKind, Shim,
};

use super::{Context, Result, Trouble, blocking, cgroup, connection, exit, pause, shim, task};
use crate::convert::Fail as _;
use crate::nri;
use crate::pod_task::Message;
use crate::settings::SandboxMode;

/// The type of the configuration that a shim gets whole.
const CONFIG_TYPE: &str = "runtime.v1.PodSandboxConfig";

/// Seconds that a sandbox's own process gets; its containers are gone by then.
const GRACE: u32 = 2;

pub(super) async fn acquire(context: &Context) -> Result<PodFact> {
    let shim = connection(context).await?;
    let mode = context.handler()?.sandbox;
    let fact = match mode {
        SandboxMode::Task => None,
        SandboxMode::Sandbox | SandboxMode::Auto => by_api(context, &shim, mode).await?,
    };
    let fact = match fact {
        Some(fact) => fact,
        None => as_task(context, &shim).await?,
    };
    nri::run_sandbox(context, &fact).await?;
    Ok(PodFact::Sandbox(fact))
}

/// By the Sandbox API; none: the shim does not have it, and may be given a task instead.
async fn by_api(context: &Context, shim: &Shim, mode: SandboxMode) -> Result<Option<SandboxFact>> {
    let (id, record) = (context.record.id.as_str(), &context.record);
    let config = Any { type_url: CONFIG_TYPE.into(), value: record.spec.original.clone() };
    let namespaces = record.namespaces.held().cloned().unwrap_or_default();
    let create = CreateSandbox {
        id: id.to_owned(),
        bundle: context.layout().bundle(id),
        rootfs: Vec::new(),
        options: Some(config),
        netns: namespaces.net,
        annotations: record.spec.spec.annotations.clone(),
    };
    match shim.create_sandbox(create).await {
        Ok(()) => {}
        Err(why) if why.kind() == ShimKind::Exists => {}
        Err(why) if mode == SandboxMode::Auto && has_none(shim, id, &why).await => return Ok(None),
        Err(why) => return Err(why.into()),
    }
    let pid = match shim.start_sandbox(id).await {
        Ok(started) => started.pid,
        // An earlier try has started it.
        Err(why) if matches!(why.kind(), ShimKind::Exists | ShimKind::WrongState) => {
            let status = shim.sandbox_status(id, false).await?;
            if status.state != "SANDBOX_READY" && status.state != "ready" {
                return Err(why.into());
            }
            status.pid
        }
        Err(why) => return Err(why.into()),
    };
    // Some shims answer every call of the API and keep no sandbox.
    if mode == SandboxMode::Auto && shim::foreign(context) {
        let status = shim.sandbox_status(id, false).await;
        if status.is_ok_and(|status| status.state.is_empty()) {
            return Ok(None);
        }
    }
    let shared_pid = record.spec.spec.namespaces.pid == PidMode::Pod;
    Ok(Some(SandboxFact {
        pid: Some(pid).filter(|pid| *pid != 0),
        pid_ns: shared_pid.then(|| context.layout().pid_ns(&record.id)),
        as_task: false,
    }))
}

/// Has the shim no Sandbox API? Shims on the Rust crate call an unknown service a bad argument, and
/// those on an old Go one say that it is not found; so they do with any call of it.
async fn has_none(shim: &Shim, id: &str, why: &ShimError) -> bool {
    let unknown =
        |kind| matches!(kind, ShimKind::Unimplemented | ShimKind::Invalid | ShimKind::NotFound);
    match why.kind() {
        ShimKind::Unimplemented => true,
        ShimKind::Invalid | ShimKind::NotFound => {
            shim.ping_sandbox(id).await.is_err_and(|why| unknown(why.kind()))
        }
        _ => false,
    }
}

/// As a task with the sandbox's id, which runs the built-in pause.
async fn as_task(context: &Context, shim: &Shim) -> Result<SandboxFact> {
    let id = &context.record.id;
    let create = Create {
        id: id.to_string(),
        bundle: context.layout().bundle(id.as_str()),
        rootfs: vec![pause::rootfs(context).await?],
        options: task::options(context, id.as_str())?,
        ..Create::default()
    };
    let (pid, _) = task::bring_up(context, shim, create, None).await?;
    let shared_pid = context.record.spec.spec.namespaces.pid == PidMode::Pod;
    let pin = shared_pid.then(|| context.layout().pid_ns(id));
    if let Some(pin) = pin.clone() {
        let source = format!("/proc/{pid}/ns/pid");
        blocking(move || Ok(berth_sys::namespace::pin(source, pin)?)).await?;
    }
    Ok(SandboxFact { pid: Some(pid), pid_ns: pin, as_task: true })
}

/// How the sandbox was, or may have been, given to the shim: by its API, as a task.
fn ways(context: &Context) -> (bool, bool) {
    if let Some(fact) = context.record.sandbox.held() {
        return (!fact.as_task, fact.as_task);
    }
    match context.handler().map(|handler| handler.sandbox) {
        Ok(SandboxMode::Task) => (false, true),
        Ok(SandboxMode::Sandbox) => (true, false),
        Ok(SandboxMode::Auto) | Err(_) => (true, shim::foreign(context)),
    }
}

pub(super) async fn release(context: &Context) -> Result<()> {
    nri::stop_sandbox(context).await;
    let (by_api, as_task) = ways(context);
    if by_api {
        match stop(context).await {
            // It is a task, or it is nothing.
            Err(Trouble::Failed(why))
                if as_task && matches!(why.kind, Kind::Unimplemented | Kind::Invalid) => {}
            done => done?,
        }
    }
    if as_task {
        let id = &context.record.id;
        let path = cgroup::path_below(context, id.as_str());
        task::delete(context, id.as_str(), &path).await?;
        let pin = context.layout().pid_ns(id);
        blocking(move || Ok(berth_sys::namespace::unpin(pin)?)).await?;
        cgroup::clear_of_pod(context, &path).await?;
    }
    Ok(())
}

async fn stop(context: &Context) -> Result<()> {
    let gone = |kind| matches!(kind, ShimKind::NotFound | ShimKind::WrongState);
    match connection(context).await {
        Ok(shim) => match shim.stop_sandbox(context.record.id.as_str(), GRACE).await {
            Err(why) if why.kind() == ShimKind::Unavailable => {
                context.shared.disconnect(&context.record.id);
                if exit::is_dead(context) { Ok(()) } else { Err(why.into()) }
            }
            // The same goes for one that says nothing.
            Err(why) if why.kind() == ShimKind::TimedOut => Ok(()),
            Err(why) if !gone(why.kind()) => Err(why.into()),
            _ => Ok(()),
        },
        // Ending the shim, which comes next, ends the sandbox with it.
        Err(Trouble::Failed(why)) if why.kind == Kind::Unavailable => Ok(()),
        Err(why) => Err(why),
    }
}

/// Tells the shim to end.
pub(super) async fn shut_down(context: &Context, shim: &Shim) -> Result<()> {
    let (id, (by_api, as_task)) = (context.record.id.as_str(), ways(context));
    let asked = if by_api { shim.shutdown_sandbox(id).await } else { Ok(()) };
    match as_task {
        true => Ok(shim.shutdown(id, false).await?),
        false => Ok(asked?),
    }
}

/// Waits until the sandbox's process or the shim has ended. What comes after that is boxed: room for
/// it would be kept as long as the pod lives.
pub(super) async fn watch(context: &Context) -> Result<Outcome> {
    let shim = match connection(context).await {
        Ok(shim) => shim,
        Err(why) => return out_of_reach(context, why),
    };
    let _ = context.queue.send(Message::Silent(false));
    let end = tokio::select! {
        why = shim.closed() => End::CutOff(why),
        ended = wait(context, &shim) => End::Ended(ended),
    };
    Box::pin(ended(context, shim, end)).await
}

/// Nobody listens for the shim: it is dead, or only silent.
fn out_of_reach(context: &Context, why: Trouble) -> Result<Outcome> {
    if !exit::is_dead(context) && !context.rebooted() {
        let _ = context.queue.send(Message::Silent(true));
        return Err(why);
    }
    match why {
        Trouble::Failed(why) | Trouble::Known(why) | Trouble::Living(why) | Trouble::Dead(why) => {
            Ok(Outcome::Lost(Lost::Shim(why.message)))
        }
        Trouble::Aborted => Err(Trouble::Aborted),
    }
}

/// How the wait for a sandbox's end ended.
enum End {
    CutOff(Arc<str>),
    Ended(berth_shim_client::Result<Exited>),
}

async fn ended(context: &Context, shim: Shim, end: End) -> Result<Outcome> {
    match end {
        End::CutOff(why) => cut_off(context, &why).await,
        End::Ended(Ok(exited)) => {
            let text = format!("its process exited with code {}", exited.status);
            Ok(Outcome::Lost(Lost::Sandbox(text)))
        }
        End::Ended(Err(why)) if why.kind() == ShimKind::Unimplemented => {
            cut_off(context, &shim.closed().await).await
        }
        End::Ended(Err(why)) if why.kind() == ShimKind::Unavailable => {
            cut_off(context, &why.fail().message).await
        }
        End::Ended(Err(why)) => Err(why.into()),
    }
}

async fn wait(context: &Context, shim: &Shim) -> berth_shim_client::Result<Exited> {
    let id = context.record.id.as_str();
    match context.record.sandbox.held() {
        Some(fact) if fact.as_task => shim.wait(id, None).await,
        _ => shim.wait_sandbox(id).await,
    }
}

/// The connection is lost: is the shim dead, or only out of reach?
async fn cut_off(context: &Context, why: &str) -> Result<Outcome> {
    context.shared.disconnect(&context.record.id);
    if exit::gone_soon(context).await {
        return Ok(Outcome::Lost(Lost::Shim(why.to_owned())));
    }
    super::failed(Kind::Unavailable, format!("the connection to the shim was lost: {why}"))
}
