//! A use: a command run in a container, outside the pod's queue and bounded in time and size.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use berth_oci::{exec_process, from_json};
use berth_pod::record::Failure;
use berth_pod::{ContainerId, Kind};
use berth_shim_client::{Any, Exec, Kind as ShimKind, Shim};
use berth_sys::pipe::{FifoEnd, make_fifo, open_fifo};
use rustix::io::Errno;
use tokio::io::Interest;

use crate::convert::Fail as _;
use crate::effect::{Context, Result, Trouble, connection, failed};
use crate::{Error, ExecOutput};

/// What is kept of each stream; the rest is read and dropped (CRI).
const KEEP: usize = 16 << 20;

/// How long output is waited for after the exit when somebody else holds the pipe.
const DRAIN: Duration = Duration::from_secs(1);

/// One command's pipes, removed whatever happens.
struct Fifos {
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Drop for Fifos {
    fn drop(&mut self) {
        for path in [&self.stdout, &self.stderr] {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Fifos {
    fn make(context: &Context, id: &ContainerId, exec: &str) -> Result<(Self, OwnedFd, OwnedFd)> {
        let bundle = context.layout().bundle(id.as_str());
        let fifos = Self {
            stdout: bundle.join(format!("{exec}.out")),
            stderr: bundle.join(format!("{exec}.err")),
        };
        let open = |path: &PathBuf| -> Result<OwnedFd> {
            make_fifo(path, 0o600)?;
            Ok(open_fifo(path, FifoEnd::Read)?)
        };
        let (stdout, stderr) = (open(&fifos.stdout)?, open(&fifos.stderr)?);
        Ok((fifos, stdout, stderr))
    }
}

/// Runs a command to its end, or to its time-out: then everything it started is killed.
pub(crate) async fn run(
    context: &Context,
    id: &ContainerId,
    command: &[String],
    timeout: Option<Duration>,
) -> std::result::Result<ExecOutput, Error> {
    match exec(context, id, command, timeout).await {
        Ok(output) => Ok(output),
        Err(Trouble::Failed(why) | Trouble::Living(why)) => Err(Error::from(why)),
        Err(Trouble::Aborted) => Err(Error::new(Kind::Cancelled, "the command was aborted")),
    }
}

async fn exec(
    context: &Context,
    id: &ContainerId,
    command: &[String],
    timeout: Option<Duration>,
) -> Result<ExecOutput> {
    let begin = tokio::time::Instant::now();
    // Unique over daemons: a shim outlives them.
    let exec = format!("exec-{:x}-{}", context.shared.now(), context.shared.token());
    let process = process(context, id, command)?;
    let shim = connection(context).await?;
    let (fifos, stdout, stderr) = Fifos::make(context, id, &exec)?;
    let request = Exec {
        id: id.to_string(),
        exec_id: exec.clone(),
        terminal: false,
        stdin: String::new(),
        stdout: fifos.stdout.to_string_lossy().into_owned(),
        stderr: fifos.stderr.to_string_lossy().into_owned(),
        process,
    };
    // Before it is there, and until it is gone: the caller may leave at any await.
    let mut guard = Guard { shim: Some(shim.clone()), id: id.clone(), exec: exec.clone() };
    shim.exec(request).await?;
    // More than the clock can count is no limit.
    let deadline = timeout.and_then(|timeout| begin.checked_add(timeout));
    let ended = attend(&shim, id, &exec, (stdout, stderr), deadline).await;
    let timed_out = matches!(ended, Ok(None));
    if timed_out || ended.is_err() {
        kill(&shim, id, &exec).await;
    }
    if let Err(why) = shim.delete(id.as_str(), Some(&exec)).await
        && why.kind() != ShimKind::NotFound
    {
        tracing::warn!(container = %id, exec, error = %why, "an ended command could not be deleted");
    }
    guard.shim = None;
    match ended? {
        Some(output) => Ok(output),
        None => failed(
            Kind::TimedOut,
            format!("command {command:?} timed out after {:?}", timeout.unwrap_or_default()),
        ),
    }
}

/// A caller that goes away takes its command with it; so does an answer that never came.
struct Guard {
    shim: Option<Shim>,
    id: ContainerId,
    exec: String,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(shim) = self.shim.take() {
            let (id, exec) = (self.id.clone(), self.exec.clone());
            tokio::spawn(async move {
                kill(&shim, &id, &exec).await;
                let _ = shim.delete(id.as_str(), Some(&exec)).await;
            });
        }
    }
}

fn process(context: &Context, id: &ContainerId, command: &[String]) -> Result<Any> {
    let path = context.layout().bundle(id.as_str()).join("config.json");
    let text = std::fs::read(&path).map_err(|e| ("read", path.as_path(), e).fail())?;
    let process = exec_process(&from_json(&text)?, command, false)?;
    match serde_json::to_vec(&process) {
        Ok(value) => Ok(Any { type_url: Any::PROCESS.into(), value }),
        Err(why) => failed(Kind::Broken, format!("the process has no JSON: {why}")),
    }
}

/// Starts it and takes its output; none when the deadline passed.
async fn attend(
    shim: &Shim,
    id: &ContainerId,
    exec: &str,
    (stdout, stderr): (OwnedFd, OwnedFd),
    deadline: Option<tokio::time::Instant>,
) -> Result<Option<ExecOutput>> {
    let work = async {
        shim.start(id.as_str(), Some(exec)).await?;
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let exited = {
            let reading = async {
                tokio::join!(read(stdout, &mut out), read(stderr, &mut err));
            };
            tokio::pin!(reading);
            tokio::select! {
                exited = shim.wait(id.as_str(), Some(exec)) => {
                    let exited = exited?;
                    // A grandchild may hold the pipe for ever.
                    let _ = tokio::time::timeout(DRAIN, &mut reading).await;
                    exited
                }
                () = &mut reading => shim.wait(id.as_str(), Some(exec)).await?,
            }
        };
        let exit_code = i32::try_from(exited.status).unwrap_or(255);
        Ok::<_, Trouble>((exit_code, out, err))
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
async fn read(from: OwnedFd, keep: &mut Vec<u8>) {
    let Ok(from) = berth_job::watch(from, Interest::READABLE) else { return };
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(mut ready) = from.readable().await else { return };
        match rustix::io::read(from.get_ref(), &mut buffer) {
            Ok(0) => return,
            Ok(n) => {
                let room = KEEP.saturating_sub(keep.len()).min(n);
                keep.extend_from_slice(&buffer[..room]);
            }
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// Kills a command and waits until it is dead.
async fn kill(shim: &Shim, id: &ContainerId, exec: &str) {
    const LIMIT: Duration = Duration::from_secs(5);
    if shim.kill(id.as_str(), Some(exec), 9, true).await.is_ok() {
        let _ = tokio::time::timeout(LIMIT, shim.wait(id.as_str(), Some(exec))).await;
    }
}

/// The failure when the container does not run.
pub(crate) fn not_running(id: &ContainerId, state: &str) -> Failure {
    Failure::new(
        Kind::WrongState,
        format!("container {id} is {state}: only a running one can do this"),
    )
}
