//! A use: a command run in a container, outside the pod's queue and bounded in time and size.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use berth_cgroup::Cgroup;
use berth_oci::{exec_process, from_json};
use berth_pod::record::Failure;
use berth_pod::{ContainerId, Kind};
use berth_shim_client::{Any, Exec, Kind as ShimKind, Shim, Status};
use berth_sys::pipe::{FifoEnd, make_fifo, open_fifo};
use rustix::io::Errno;
use tokio::io::Interest;

use crate::convert::Fail as _;
use crate::effect::{Context, Result, Trouble, blocking, connection, failed, foreign_cgroup};
use crate::family;
use crate::kept::{Kept, TOGETHER, TooMuch};
use crate::{Error, ExecOutput};

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
        Err(
            Trouble::Failed(why) | Trouble::Known(why) | Trouble::Living(why) | Trouble::Dead(why),
        ) => Err(Error::from(why)),
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
    let exec = format!("{}{}", prefix(context), context.shared.token());
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
    let cgroup = foreign_cgroup(context, id);
    let mut guard = Guard {
        shim: Some(shim.clone()),
        id: id.clone(),
        exec: exec.clone(),
        cgroup: cgroup.clone(),
    };
    if let Err(why) = shim.exec(request).await {
        return Err(met_its_end(&shim, id, why.into()).await);
    }
    // More than the clock can count is no limit.
    let deadline = timeout.and_then(|timeout| begin.checked_add(timeout));
    let kept = || Kept::new(&context.shared.said);
    let streams = [(stdout, kept()), (stderr, kept())];
    let ended = attend(&shim, id, &exec, streams, deadline).await;
    let timed_out = matches!(ended, Ok(None));
    if timed_out || ended.is_err() {
        kill(&shim, id, &exec, cgroup.as_ref()).await;
    }
    if let Err(why) = shim.delete(id.as_str(), Some(&exec)).await
        && why.kind() != ShimKind::NotFound
    {
        tracing::warn!(container = %id, exec, error = %why, "an ended command could not be deleted");
    }
    guard.shim = None;
    match ended {
        Ok(Some(output)) => Ok(output),
        Err(why) => Err(met_its_end(&shim, id, why).await),
        Ok(None) => failed(
            Kind::TimedOut,
            format!("command {command:?} timed out after {:?}", timeout.unwrap_or_default()),
        ),
    }
}

/// The names of this daemon's commands begin with this: a shim outlives daemons.
fn prefix(context: &Context) -> String {
    format!("exec-{:x}-", context.shared.born())
}

/// What a command's failure means when the container has ended meanwhile.
async fn met_its_end(shim: &Shim, id: &ContainerId, why: Trouble) -> Trouble {
    let Trouble::Failed(failure) = &why else { return why };
    if !matches!(failure.kind, Kind::NotFound | Kind::Broken | Kind::WrongState) {
        return why;
    }
    let over = match shim.state(id.as_str(), None).await {
        Ok(state) => state.status == Status::Stopped,
        Err(error) => error.kind() == ShimKind::NotFound,
    };
    if over { Trouble::Failed(not_running(id, "not running any more")) } else { why }
}

/// Ends the commands of daemons that are dead: nobody waits for them, and their time-outs went with
/// whoever kept them.
pub(crate) async fn end_orphans(context: &Context, id: &ContainerId) {
    let (bundle, own) = (context.layout().bundle(id.as_str()), prefix(context));
    let listed = blocking(move || {
        let mut orphans = Vec::new();
        for entry in std::fs::read_dir(&bundle).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(exec) = name.strip_suffix(".out")
                && exec.starts_with("exec-")
                && !exec.starts_with(&own)
            {
                let stderr = bundle.join(format!("{exec}.err"));
                orphans.push((exec.to_owned(), Fifos { stdout: entry.path(), stderr }));
            }
        }
        Ok(orphans)
    });
    let (Ok(orphans), Ok(shim)) = (listed.await, connection(context).await) else { return };
    for (exec, fifos) in orphans {
        tracing::info!(container = %id, exec, "ending a command of an earlier daemon");
        kill(&shim, id, &exec, foreign_cgroup(context, id).as_ref()).await;
        // Not there: it had ended, or was never begun.
        let _ = shim.delete(id.as_str(), Some(&exec)).await;
        drop(fifos);
    }
}

/// A caller that goes away takes its command with it; so does an answer that never came.
struct Guard {
    shim: Option<Shim>,
    id: ContainerId,
    exec: String,
    cgroup: Option<Cgroup>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(shim) = self.shim.take() {
            let (id, exec) = (self.id.clone(), self.exec.clone());
            let cgroup = self.cgroup.take();
            tokio::spawn(async move {
                kill(&shim, &id, &exec, cgroup.as_ref()).await;
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
    [(stdout, mut out), (stderr, mut err)]: [(OwnedFd, Kept); 2],
    deadline: Option<tokio::time::Instant>,
) -> Result<Option<ExecOutput>> {
    let work = async {
        shim.start(id.as_str(), Some(exec)).await?;
        let exited = {
            let reading =
                async { tokio::try_join!(read(stdout, &mut out), read(stderr, &mut err)) };
            tokio::pin!(reading);
            tokio::select! {
                exited = shim.wait(id.as_str(), Some(exec)) => {
                    let exited = exited?;
                    // A grandchild may hold the pipe for ever.
                    if let Ok(Err(too_much)) = tokio::time::timeout(DRAIN, &mut reading).await {
                        return Err(too_much.into());
                    }
                    exited
                }
                read = &mut reading => match read {
                    Ok(_) => shim.wait(id.as_str(), Some(exec)).await?,
                    Err(too_much) => return Err(too_much.into()),
                },
            }
        };
        let exit_code = i32::try_from(exited.status).unwrap_or(255);
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

/// Kills a command and waits until it is dead. Our own shim kills what it has started as well; for
/// any other, that is looked for in the container's cgroup.
async fn kill(shim: &Shim, id: &ContainerId, exec: &str, cgroup: Option<&Cgroup>) {
    const LIMIT: Duration = Duration::from_secs(5);
    if let Some(cgroup) = cgroup {
        let started = family::of(shim, id.as_str(), exec, cgroup).await;
        family::kill(&started);
    }
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
