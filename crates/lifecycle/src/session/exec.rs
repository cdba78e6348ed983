//! A command with a client's streams.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use berth_pod::{ContainerId, Kind};
use berth_shim_client::Shim;
use berth_sys::pipe::{FifoEnd, open_fifo};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::copy::{self, Gone, Input};
use super::{BoxRead, BoxWrite, Size, Streams};
use crate::command::{Command, DRAIN, Ends, Wanted};
use crate::effect::{Context, Result, Trouble};

/// How long a shim by others may take to copy what was said, after it has told of the end.
const COPIED: Duration = Duration::from_secs(5);

/// Runs a command, with a terminal or without one; its exit code.
pub(super) async fn run(
    context: &Context,
    id: &ContainerId,
    (command, terminal): (&[String], bool),
    streams: Streams,
) -> Result<i32> {
    let wanted = Wanted { command, terminal, stdin: streams.stdin.is_some() };
    let (mut command, ends) = Command::add(context, id, wanted).await?;
    let fifo = command.stdin(context);
    match attend(&command, &fifo, ends, streams).await {
        Ok(code) => {
            command.forget();
            Ok(code)
        }
        Err(why) => {
            command.kill().await;
            Err(command.met_its_end(why).await)
        }
    }
}

async fn attend(command: &Command, fifo: &Path, ends: Ends, streams: Streams) -> Result<i32> {
    command.start().await?;
    let (shim, target) = (&command.shim, (command.id.as_str(), Some(command.exec.as_str())));
    let over = CancellationToken::new();
    let until = (&over, if command.foreign { COPIED } else { DRAIN });
    let mut output =
        std::pin::pin!(output(ends.stdout, ends.stderr, streams.stdout, streams.stderr, until));
    let mut rest = std::pin::pin!(async {
        tokio::join!(
            input(command, streams.stdin, ends.stdin, fifo),
            resizes(shim, target, streams.resize),
        )
    });
    let mut ended = std::pin::pin!(command.ended());
    let (mut said, mut quiet) = (false, false);
    let code = loop {
        tokio::select! {
            code = &mut ended => break code?,
            all = &mut output, if !said => {
                all?;
                said = true;
            }
            _ = &mut rest, if !quiet => quiet = true,
        }
    };
    over.cancel();
    while !said {
        tokio::select! {
            all = &mut output => {
                all?;
                said = true;
            }
            // Taken on: a client that sends and is not read from may not read either.
            _ = &mut rest, if !quiet => quiet = true,
        }
    }
    Ok(code)
}

/// Everything that comes out of a process, to its client.
async fn output(
    stdout: OwnedFd,
    stderr: Option<OwnedFd>,
    to_stdout: Option<BoxWrite>,
    to_stderr: Option<BoxWrite>,
    over: (&CancellationToken, Duration),
) -> std::result::Result<(), Gone> {
    let stderr = async {
        match stderr {
            Some(from) => copy::to_client(from, to_stderr, over).await,
            None => Ok(()),
        }
    };
    tokio::try_join!(copy::to_client(stdout, to_stdout, over), stderr).map(drop)
}

/// What the client sends; at its end the process sees the end of its input.
async fn input(command: &Command, from: Option<BoxRead>, both: Option<OwnedFd>, fifo: &Path) {
    let (Some(from), Some(both)) = (from, both) else { return };
    // With only an end to write to, it is seen when the process reads no more.
    let Ok(to) = open_fifo(fifo, FifoEnd::Write) else { return };
    let both = Some(both).filter(|_| command.foreign);
    copy::from_client(from, Input { to, both }).await;
    // It may have ended meanwhile.
    let _ = command.shim.close_stdin(command.id.as_str(), Some(&command.exec)).await;
}

/// Gives each size of the client's terminal to the process's.
pub(super) async fn resizes(
    shim: &Shim,
    (id, exec): (&str, Option<&str>),
    mut sizes: mpsc::Receiver<Size>,
) {
    while let Some(mut size) = sizes.recv().await {
        while let Ok(newer) = sizes.try_recv() {
            size = newer;
        }
        let size = (u32::from(size.columns), u32::from(size.rows));
        if let Err(why) = shim.resize_pty(id, exec, size).await {
            tracing::debug!(container = id, exec, error = %why, "a terminal cannot be resized");
        }
    }
}

impl From<Gone> for Trouble {
    fn from(_: Gone) -> Self {
        let text = "the client went away before it had taken all output: it was ended";
        Self::Failed(berth_pod::record::Failure::new(Kind::Cancelled, text))
    }
}
