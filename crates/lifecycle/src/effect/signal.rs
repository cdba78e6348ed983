//! The stop signal, and the kill that ends the grace.

use std::time::Duration;

use berth_pod::job::Outcome;
use berth_pod::record::PodWish;
use berth_pod::{ContainerId, Kind};
use berth_shim_client::Kind as ShimKind;
use berth_sys::Signal;

use super::{Context, Result, Trouble, blocking, cgroup, connection, shim};

/// A shim that takes longer to kill than this is by-passed.
const KILL: Duration = Duration::from_secs(3);

/// How many kills a shim may leave unanswered: then it is killed too, and the pod is lost.
const PATIENCE: u32 = 4;

/// Sends the stop signal: the one asked for, else the image's, else SIGTERM.
pub(super) async fn terminate(context: &Context, id: &ContainerId) -> Result<Outcome> {
    let c = context.container(id)?;
    let image = c.image.held().map(|i| i.facts.stop_signal.as_str()).unwrap_or_default();
    let of_image = || image.parse::<Signal>().ok().map(Signal::number);
    let signal = c.spec.spec.stop_signal.or_else(of_image).unwrap_or(15);
    match connection(context).await?.kill(id.as_str(), None, signal, false).await {
        // It may have got out: it is sent once, and the kill after the grace follows anyway.
        Err(why) if unknown(&why) => {
            tracing::warn!(container = %id, error = %why, "the stop signal may not have been sent");
            Ok(Outcome::Done)
        }
        Err(why) if !over(why.kind()) => Err(why.into()),
        _ => Ok(Outcome::Done),
    }
}

/// Nobody knows whether the call took effect.
fn unknown(why: &berth_shim_client::Error) -> bool {
    use berth_shim_client::Error;
    matches!(why, Error::TimedOut { .. } | Error::Lost { .. } | Error::Reply { .. })
}

/// Ended already, or not there.
fn over(kind: ShimKind) -> bool {
    matches!(kind, ShimKind::NotFound | ShimKind::WrongState)
}

/// Kills through the shim; from the second time on, or without one, by the cgroup. A shim that then
/// says nothing of the end is killed as well.
pub(super) async fn kill(context: &Context, id: &ContainerId, tries: u32) -> Result<Outcome> {
    if tries == 0 {
        let asked = async {
            let shim = connection(context).await?;
            Ok::<_, Trouble>(shim.kill(id.as_str(), None, 9, true).await)
        };
        match tokio::time::timeout(KILL, asked).await {
            Ok(Ok(Ok(()))) => return Ok(Outcome::Done),
            Ok(Ok(Err(why))) if over(why.kind()) => return Ok(Outcome::Done),
            _ => {}
        }
    }
    let cgroup = context.shared.cgroups.at(&cgroup::path_of(context, id))?;
    let there = blocking(move || {
        let there = cgroup.exists();
        if there {
            cgroup::nobody(&cgroup, cgroup.kill(cgroup::KILL)?)?;
        }
        Ok(there)
    })
    .await?;
    // Nobody is alive, and the shim has not said so. In a pod that ends it has no time to lose.
    let patience = if context.record.wish >= PodWish::Stop { 1 } else { PATIENCE };
    let killed = tries >= patience && shim::put_down_if_silent(context, id.as_str()).await?;
    if there || killed {
        return Ok(Outcome::Done);
    }
    super::failed(Kind::NotFound, "the container's cgroup is gone")
}
