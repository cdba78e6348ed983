//! The streams of a container whose shim is not our own: fifos, which the daemon carries.

use berth_pod::ContainerId;
use berth_pod::spec::Stdin;

use super::{Context, Result, blocking, helper, shim};
use crate::carry::{Paths, Wanted};

fn wanted(context: &Context, id: &ContainerId) -> Result<Wanted> {
    let spec = &context.container(id)?.spec.spec;
    Ok(Wanted {
        bundle: context.layout().bundle(id.as_str()),
        log: spec.log_path.clone(),
        terminal: spec.tty,
        stdin: spec.stdin != Stdin::Closed,
    })
}

/// Makes the fifos; what the shim is to be told of them.
pub(super) async fn open(context: &Context, id: &ContainerId) -> Result<Paths> {
    let wanted = wanted(context, id)?;
    let fifos = wanted.fifos();
    let paths = context.shared.carriers.open(id, wanted).await?;
    if !fifos.is_empty() {
        helper::hold(context, &fifos).await?;
    }
    Ok(paths)
}

/// The task is about to be started: opens the log.
pub(super) async fn begin(context: &Context, id: &ContainerId) -> Result<()> {
    context.shared.carriers.begin(id, false).await
}

/// Goes on with what another daemon has carried.
pub(super) async fn resume(context: &Context, id: &ContainerId) {
    if !shim::foreign(context) {
        return;
    }
    let resumed = async {
        let wanted = wanted(context, id)?;
        context.shared.carriers.resume(id, wanted).await
    };
    if let Err(why) = resumed.await {
        tracing::warn!(container = %id, error = ?why, "its output cannot be carried on");
    }
}

/// The task is gone.
pub(super) async fn end(context: &Context, id: &ContainerId) {
    context.shared.carriers.end(id);
    // A hint that came after the end is of no use to anybody.
    context.shared.lacked_memory(id);
    if let (true, Ok(wanted)) = (shim::foreign(context), wanted(context, id)) {
        let let_go = blocking(move || {
            wanted.let_go();
            Ok(())
        });
        // It fails only with the thread.
        let _ = let_go.await;
    }
}
