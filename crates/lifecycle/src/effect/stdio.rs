//! The streams of a container whose shim is not our own: fifos, which the daemon carries.

use std::time::Duration;

use berth_pod::ContainerId;
use berth_pod::spec::Stdin;

use super::{Context, Result, blocking, helper, shim};
use crate::carry::{Paths, Wanted};

/// When a log is tried again that could not be opened, and how seldom in the end.
const AGAIN: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_secs(30);

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

/// Goes on with what another daemon has carried, as soon as its log can be opened: the container waits
/// once a fifo is full.
pub(super) async fn resume(context: &Context, id: &ContainerId) {
    if !shim::foreign(context) {
        return;
    }
    let mut pause = AGAIN;
    loop {
        let resumed = async {
            let wanted = wanted(context, id)?;
            context.shared.carriers.resume(id, wanted).await
        };
        let Err(why) = resumed.await else { return };
        tracing::warn!(container = %id, error = ?why, ?pause, "its output cannot be carried on yet");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(SELDOM);
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
