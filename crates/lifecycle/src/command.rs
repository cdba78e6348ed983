//! A command in a container as the shim has it: its fifos, its name, and its end whatever happens.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use berth_cgroup::Cgroup;
use berth_oci::{exec_process, from_json};
use berth_pod::record::Failure;
use berth_pod::{ContainerId, Kind};
use berth_shim_client::{Any, Exec, Kind as ShimKind, Shim, Status};
use berth_sys::pipe::{FifoEnd, make_fifo, open_fifo};
use futures_util::StreamExt as _;
use tokio::sync::Mutex;

use crate::convert::Fail as _;
use crate::effect::{Context, Result, Trouble, blocking, connection, failed, foreign_cgroup};
use crate::family;

/// How long output is waited for after the exit when somebody else holds the pipe.
pub(crate) const DRAIN: Duration = Duration::from_secs(1);

/// How long a caller waits for the end of a command that is killed.
const KILL: Duration = Duration::from_secs(5);

/// Within this time a shim by others is to start one command, before it is told of the next start:
/// containerd's over runc sees no exits meanwhile, and is stuck for a minute if dozens wait in it.
const TURN: Duration = Duration::from_secs(5);

/// How many commands of an earlier daemon are ended at a time, of one container.
const ABREAST: usize = 8;

/// What is to run.
pub(crate) struct Wanted<'a> {
    pub(crate) command: &'a [String],
    pub(crate) terminal: bool,
    pub(crate) stdin: bool,
}

/// The daemon's ends of a command's streams.
pub(crate) struct Ends {
    /// Both ends: what is written waits for the shim to open its own.
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: OwnedFd,
    /// A terminal has none.
    pub(crate) stderr: Option<OwnedFd>,
}

/// One command's fifos, removed whatever happens.
#[derive(Default)]
pub(crate) struct Fifos(Vec<PathBuf>);

impl Drop for Fifos {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Fifos {
    /// Makes one and opens the daemon's end.
    pub(crate) fn make(&mut self, path: PathBuf, end: FifoEnd) -> Result<OwnedFd> {
        make_fifo(&path, 0o600)?;
        self.0.push(path);
        Ok(open_fifo(&self.0[self.0.len() - 1], end)?)
    }

    /// None yet.
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    /// Those of a command, by its name.
    fn of(bundle: &Path, exec: &str) -> Self {
        Self([IN, OUT, ERR].map(|end| bundle.join(format!("{exec}.{end}"))).into())
    }

    /// Both ends of each: a shim that opens its own waits for nobody.
    fn hold(&self) -> Vec<OwnedFd> {
        self.0.iter().filter_map(|path| open_fifo(path, FifoEnd::Both).ok()).collect()
    }
}

/// How the fifos of a command end.
const IN: &str = "in";
const OUT: &str = "out";
const ERR: &str = "err";

/// A command that the shim knows, to be started. Whoever drops it takes the command with it.
pub(crate) struct Command {
    pub(crate) shim: Shim,
    pub(crate) id: ContainerId,
    pub(crate) exec: String,
    cgroup: Option<Cgroup>,
    /// Its shim is not our own.
    pub(crate) foreign: bool,
    fifos: Fifos,
    /// Held while the shim starts it.
    starting: Arc<Mutex<()>>,
    /// It has ended: the shim has only to forget it.
    over: bool,
}

impl Command {
    /// Tells the shim of a command.
    pub(crate) async fn add(
        context: &Context,
        id: &ContainerId,
        wanted: Wanted<'_>,
    ) -> Result<(Self, Ends)> {
        let exec = format!("{}{}", prefix(context), context.shared.token());
        let process = process(context, id, &wanted)?;
        let shim = connection(context).await?;
        let bundle = context.layout().bundle(id.as_str());
        let mut fifos = Fifos::new();
        let path = |end: &str| bundle.join(format!("{exec}.{end}"));
        let name = |end: &str, there: bool| match there {
            true => path(end).to_string_lossy().into_owned(),
            false => String::new(),
        };
        let ends = Ends {
            stdin: match wanted.stdin {
                true => Some(fifos.make(path(IN), FifoEnd::Both)?),
                false => None,
            },
            stdout: fifos.make(path(OUT), FifoEnd::Read)?,
            stderr: match wanted.terminal {
                true => None,
                false => Some(fifos.make(path(ERR), FifoEnd::Read)?),
            },
        };
        let request = Exec {
            id: id.to_string(),
            exec_id: exec.clone(),
            terminal: wanted.terminal,
            stdin: name(IN, wanted.stdin),
            stdout: name(OUT, true),
            stderr: name(ERR, !wanted.terminal),
            process,
        };
        // Before it is there, and until it is gone: the caller may leave at any await.
        let cgroup = foreign_cgroup(context, id);
        let foreign = context.record.shim.held().is_some_and(|shim| shim.foreign);
        let id = id.clone();
        let starting = Arc::default();
        let command = Self { shim, id, exec, cgroup, foreign, fifos, starting, over: false };
        match command.shim.exec(request).await {
            Ok(()) => Ok((command, ends)),
            Err(why) => Err(command.met_its_end(why.into()).await),
        }
    }

    /// Starts it. Who drops this while the shim is at it does not end that: when the command may be
    /// killed is known only by the shim's answer. Who drops it before leaves nothing to be started.
    pub(crate) async fn start(&self) -> Result<()> {
        let (shim, id, exec) = (self.shim.clone(), self.id.clone(), self.exec.clone());
        let turn = if self.foreign { Some(shim.turn().await) } else { None };
        let starting = Arc::clone(&self.starting).lock_owned().await;
        let call = tokio::spawn(async move {
            let mut answer = std::pin::pin!(shim.start(id.as_str(), Some(&exec)));
            let in_turn = tokio::time::timeout(TURN, &mut answer).await;
            drop(turn);
            let answer = match in_turn {
                Ok(answer) => answer,
                Err(_) => answer.await,
            };
            drop(starting);
            answer
        });
        match call.await {
            Ok(answer) => Ok(answer.map(drop)?),
            Err(why) => failed(Kind::Broken, format!("the start of a command: {why}")),
        }
    }

    /// Waits for its end; its exit code.
    pub(crate) async fn ended(&self) -> Result<i32> {
        let exited = self.shim.wait(self.id.as_str(), Some(&self.exec)).await?;
        Ok(i32::try_from(exited.status).unwrap_or(255))
    }

    /// The path of the fifo that is its input.
    pub(crate) fn stdin(&self, context: &Context) -> PathBuf {
        context.layout().bundle(self.id.as_str()).join(format!("{}.{IN}", self.exec))
    }

    /// Kills it and what it has started, and waits until it is dead. One that a shim by others still
    /// starts after 5 s, or that does not die in that time, is left to the drop of this.
    pub(crate) async fn kill(&mut self) {
        // Our own shim kills what it is starting. Another may wait for somebody to read, who has gone.
        if self.foreign {
            let _held = self.fifos.hold();
            if tokio::time::timeout(KILL, self.starting.lock()).await.is_err() {
                return;
            }
        }
        self.over = kill(&self.shim, &self.id, &self.exec, self.cgroup.as_ref()).await;
    }

    /// Lets go of it after its end. That the shim forgets it is waited for by nobody: a shim by others
    /// may do that only when no grandchild holds the output any more.
    pub(crate) fn forget(mut self) {
        self.over = true;
    }

    /// What its failure means when the container has ended meanwhile.
    pub(crate) async fn met_its_end(&self, why: Trouble) -> Trouble {
        let Trouble::Failed(failure) = &why else { return why };
        if !matches!(failure.kind, Kind::NotFound | Kind::Broken | Kind::WrongState) {
            return why;
        }
        let over = match self.shim.state(self.id.as_str(), None).await {
            Ok(state) => state.status == Status::Stopped,
            Err(error) => error.kind() == ShimKind::NotFound,
        };
        if over { Trouble::Failed(not_running(&self.id, "not running any more")) } else { why }
    }
}

/// A caller that goes away takes its command with it; so does an answer that never came. The fifos stay
/// until the shim has been told: by them the next daemon finds what this one did not come to.
impl Drop for Command {
    fn drop(&mut self) {
        let (shim, id, exec) = (self.shim.clone(), self.id.clone(), self.exec.clone());
        let fifos = std::mem::take(&mut self.fifos);
        if self.over {
            tokio::spawn(async move {
                delete(&shim, &id, &exec).await;
                drop(fifos);
            });
            return;
        }
        let (cgroup, foreign) = (self.cgroup.take(), self.foreign);
        let starting = Arc::clone(&self.starting);
        let held = fifos.hold();
        tokio::spawn(async move {
            if foreign {
                drop(starting.lock().await);
            }
            drop(held);
            end(&shim, &id, &exec, cgroup.as_ref()).await;
            drop(fifos);
        });
    }
}

/// The names of this daemon's commands begin with this: a shim outlives daemons.
fn prefix(context: &Context) -> String {
    format!("exec-{:x}-", context.shared.born())
}

/// Ends the commands of daemons that are dead, some at a time: nobody waits for them, and their
/// time-outs went with whoever kept them.
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
                orphans.push((exec.to_owned(), Fifos::of(&bundle, exec)));
            }
        }
        Ok(orphans)
    });
    let (Ok(orphans), Ok(shim)) = (listed.await, connection(context).await) else { return };
    let cgroup = foreign_cgroup(context, id);
    let (shim, cgroup) = (&shim, cgroup.as_ref());
    let ends = futures_util::stream::iter(orphans).map(|(exec, fifos)| async move {
        tracing::info!(container = %id, exec, "ending a command of an earlier daemon");
        let held = fifos.hold();
        end(shim, id, &exec, cgroup).await;
        drop((held, fifos));
    });
    ends.buffer_unordered(ABREAST).for_each(async |()| {}).await;
}

fn process(context: &Context, id: &ContainerId, wanted: &Wanted<'_>) -> Result<Any> {
    let path = context.layout().bundle(id.as_str()).join("config.json");
    let text = std::fs::read(&path).map_err(|e| ("read", path.as_path(), e).fail())?;
    let process = exec_process(&from_json(&text)?, wanted.command, wanted.terminal)?;
    match serde_json::to_vec(&process) {
        Ok(value) => Ok(Any { type_url: Any::PROCESS.into(), value }),
        Err(why) => failed(Kind::Broken, format!("the process has no JSON: {why}")),
    }
}

/// Kills a command that nobody waits for, and has the shim forget it. One that a shim by others is
/// still starting can be neither killed nor forgotten: it is tried again, for a minute or so.
async fn end(shim: &Shim, id: &ContainerId, exec: &str, cgroup: Option<&Cgroup>) {
    let mut last = None;
    for pause in [0, 1, 4, 15, 60].map(Duration::from_secs) {
        tokio::time::sleep(pause).await;
        kill(shim, id, exec, cgroup).await;
        match forgotten(shim, id, exec).await {
            Ok(()) => return,
            Err(why) => last = Some(why),
        }
    }
    if let Some(error) = last {
        tracing::warn!(container = %id, exec, %error, "a command that nobody waits for could not be ended");
    }
}

/// Has the shim forget a command that has ended: asked once, for it may do that after its answer is
/// not waited for any more.
async fn delete(shim: &Shim, id: &ContainerId, exec: &str) {
    if let Err(error) = forgotten(shim, id, exec).await {
        tracing::warn!(container = %id, exec, %error, "an ended command could not be deleted");
    }
}

/// Deletes it; one that was never begun, or has gone with its shim, is forgotten as well.
async fn forgotten(shim: &Shim, id: &ContainerId, exec: &str) -> berth_shim_client::Result<()> {
    match shim.delete(id.as_str(), Some(exec)).await {
        Err(why) if !matches!(why.kind(), ShimKind::NotFound | ShimKind::Unavailable) => Err(why),
        _ => Ok(()),
    }
}

/// Kills a command and waits until it is dead; whether it is known to be. Our own shim kills what it
/// has started as well; for any other, that is looked for in the container's cgroup.
async fn kill(shim: &Shim, id: &ContainerId, exec: &str, cgroup: Option<&Cgroup>) -> bool {
    if let Some(cgroup) = cgroup {
        let started = family::of(shim, id.as_str(), exec, cgroup).await;
        family::kill(&started);
    }
    match shim.kill(id.as_str(), Some(exec), 9, true).await {
        Ok(_) => {
            let ended = tokio::time::timeout(KILL, shim.wait(id.as_str(), Some(exec))).await;
            matches!(ended, Ok(Ok(_)))
        }
        Err(why) => why.kind() == ShimKind::NotFound,
    }
}

/// The failure when the container does not run.
pub(crate) fn not_running(id: &ContainerId, state: &str) -> Failure {
    Failure::new(
        Kind::WrongState,
        format!("container {id} is {state}: only a running one can do this"),
    )
}
