//! The sandbox in the shim, by the Sandbox API, and the watch over its life.

use berth_pod::Kind;
use berth_pod::job::Outcome;
use berth_pod::record::{Lost, PodFact, SandboxFact};
use berth_pod::spec::PidMode;
use berth_shim_client::{Any, CreateSandbox, Kind as ShimKind};

use super::{Context, Result, Trouble, connection, exit};
use crate::convert::Fail as _;
use crate::pod_task::Message;

/// The type of the configuration that a shim gets whole.
const CONFIG_TYPE: &str = "runtime.v1.PodSandboxConfig";

/// Seconds that a sandbox's own process gets; its containers are gone by then.
const GRACE: u32 = 2;

pub(super) async fn acquire(context: &Context) -> Result<PodFact> {
    let (id, record) = (context.record.id.as_str(), &context.record);
    let shim = connection(context).await?;
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
    let shared_pid = record.spec.spec.namespaces.pid == PidMode::Pod;
    Ok(PodFact::Sandbox(SandboxFact {
        pid: Some(pid).filter(|pid| *pid != 0),
        pid_ns: shared_pid.then(|| context.layout().pid_ns(&record.id)),
    }))
}

pub(super) async fn release(context: &Context) -> Result<()> {
    let gone = |kind| matches!(kind, ShimKind::NotFound | ShimKind::WrongState);
    match connection(context).await {
        Ok(shim) => match shim.stop_sandbox(context.record.id.as_str(), GRACE).await {
            Err(why) if why.kind() == ShimKind::Unavailable => {
                context.shared.disconnect(&context.record.id);
                if exit::is_dead(&context.record) { Ok(()) } else { Err(why.into()) }
            }
            Err(why) if !gone(why.kind()) => Err(why.into()),
            _ => Ok(()),
        },
        // Ending the shim, which comes next, ends the sandbox with it.
        Err(Trouble::Failed(why)) if why.kind == Kind::Unavailable => Ok(()),
        Err(why) => Err(why),
    }
}

/// Waits until the sandbox's process or the shim has ended.
pub(super) async fn watch(context: &Context) -> Result<Outcome> {
    let shim = match connection(context).await {
        Ok(shim) => shim,
        Err(why) if exit::is_dead(&context.record) || context.rebooted() => {
            let text = match why {
                Trouble::Failed(why) | Trouble::Living(why) | Trouble::Dead(why) => why.message,
                Trouble::Aborted => return Err(Trouble::Aborted),
            };
            return Ok(Outcome::Lost(Lost::Shim(text)));
        }
        Err(why) => {
            let _ = context.queue.send(Message::Silent(true));
            return Err(why);
        }
    };
    let _ = context.queue.send(Message::Silent(false));
    let id = context.record.id.as_str();
    tokio::select! {
        why = shim.closed() => cut_off(context, &why).await,
        ended = shim.wait_sandbox(id) => match ended {
            Ok(exited) => {
                let text = format!("its process exited with code {}", exited.status);
                Ok(Outcome::Lost(Lost::Sandbox(text)))
            }
            Err(why) if why.kind() == ShimKind::Unimplemented => {
                cut_off(context, &shim.closed().await).await
            }
            Err(why) if why.kind() == ShimKind::Unavailable => {
                cut_off(context, &why.fail().message).await
            }
            Err(why) => Err(why.into()),
        },
    }
}

/// The connection is lost: is the shim dead, or only out of reach?
async fn cut_off(context: &Context, why: &str) -> Result<Outcome> {
    context.shared.disconnect(&context.record.id);
    if exit::gone_soon(&context.record).await {
        return Ok(Outcome::Lost(Lost::Shim(why.to_owned())));
    }
    super::failed(Kind::Unavailable, format!("the connection to the shim was lost: {why}"))
}
