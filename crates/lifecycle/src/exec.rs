//! A use: a command run in a container, outside the pod's queue and bounded in time and size.

use std::os::fd::OwnedFd;
use std::time::Duration;

use berth_pod::record::Failure;
use berth_pod::{ContainerId, Kind};
use rustix::io::Errno;
use tokio::io::Interest;

use crate::command::{Command, DRAIN, Ends, Wanted};
use crate::effect::{Context, Result, Trouble, failed};
use crate::kept::{Kept, TOGETHER, TooMuch};
use crate::{Error, ExecOutput};

/// Runs a command to its end, or to its time-out: then everything it started is killed.
pub(crate) async fn run(
    context: &Context,
    id: &ContainerId,
    command: &[String],
    timeout: Option<Duration>,
) -> std::result::Result<ExecOutput, Error> {
    exec(context, id, command, timeout).await.map_err(Error::from)
}

async fn exec(
    context: &Context,
    id: &ContainerId,
    command: &[String],
    timeout: Option<Duration>,
) -> Result<ExecOutput> {
    let begin = tokio::time::Instant::now();
    let wanted = Wanted { command, terminal: false, stdin: false };
    let (mut running, ends) = Command::add(context, id, wanted).await?;
    // More than the clock can count is no limit.
    let deadline = timeout.and_then(|timeout| begin.checked_add(timeout));
    let kept = || Kept::new(&context.shared.said);
    let ended = attend(&running, ends, [kept(), kept()], deadline).await;
    match ended {
        Ok(Some(output)) => {
            running.forget();
            Ok(output)
        }
        Err(why) => {
            running.kill().await;
            Err(running.met_its_end(why).await)
        }
        Ok(None) => {
            running.kill().await;
            let limit = timeout.unwrap_or_default();
            failed(Kind::TimedOut, format!("command {command:?} timed out after {limit:?}"))
        }
    }
}

/// Starts it and takes its output; none when the deadline passed.
async fn attend(
    command: &Command,
    ends: Ends,
    [mut out, mut err]: [Kept; 2],
    deadline: Option<tokio::time::Instant>,
) -> Result<Option<ExecOutput>> {
    let work = async {
        command.start().await?;
        let exit_code = {
            let reading = async {
                let stderr = async {
                    match ends.stderr {
                        Some(stderr) => read(stderr, &mut err).await,
                        None => Ok(()),
                    }
                };
                tokio::try_join!(read(ends.stdout, &mut out), stderr)
            };
            tokio::pin!(reading);
            tokio::select! {
                exit_code = command.ended() => {
                    let exit_code = exit_code?;
                    // A grandchild may hold the pipe for ever.
                    if let Ok(Err(too_much)) = tokio::time::timeout(DRAIN, &mut reading).await {
                        return Err(too_much.into());
                    }
                    exit_code
                }
                read = &mut reading => match read {
                    Ok(_) => command.ended().await?,
                    Err(too_much) => return Err(too_much.into()),
                },
            }
        };
        Ok::<_, Trouble>((exit_code, out.into_bytes(), err.into_bytes()))
    };
    let done = match deadline {
        None => Ok(work.await),
        Some(at) => tokio::time::timeout_at(at, work).await,
    };
    match done {
        Ok(Ok((exit_code, stdout, stderr))) => Ok(Some(ExecOutput { stdout, stderr, exit_code })),
        Ok(Err(why)) => Err(why),
        Err(_) => Ok(None),
    }
}

/// Reads to the end, keeping the first 16 MiB.
async fn read(from: OwnedFd, keep: &mut Kept) -> std::result::Result<(), TooMuch> {
    let Ok(from) = berth_job::watch(from, Interest::READABLE) else { return Ok(()) };
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(mut ready) = from.readable().await else { return Ok(()) };
        match rustix::io::read(from.get_ref(), &mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => keep.take_in(&buffer[..n])?,
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(_) => return Ok(()),
        }
    }
}

impl From<TooMuch> for Trouble {
    fn from(_: TooMuch) -> Self {
        let text = format!(
            "what the commands that run now have said exceeds {} MiB together: run fewer at a \
             time, or let them say less",
            TOGETHER >> 20
        );
        Self::Failed(Failure::new(Kind::Exhausted, text))
    }
}
