//! One child process with a deadline, for async callers.
//!
//! A job runs in a process group of its own. Whatever happens — its deadline, a dropped future, an
//! error on a pipe — the whole group is killed and the child reaped; nothing is left running that
//! the caller believes gone. What it writes is kept up to a limit; what comes after is read and
//! thrown away, so that a talkative child is never blocked.
//!
//! ```text
//!   run ─▶ spawned ─▶ exited ─▶ leftovers killed ─▶ pipes drained ─▶ Outcome
//!             │ deadline                              (bounded)
//!             ▼
//!          group killed ─▶ reaped ─▶ TimedOut       dropped: the same, in the background
//! ```
//!
//! It must not know what the programs are: no exit code has a meaning here.

mod error;
mod running;
mod stream;
mod watch;

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use berth_sys::pipe;
use berth_sys::spawn::{Exit, Group, Spawn};

pub use error::{Error, Result};
use running::Running;
pub use running::leave_running;
use stream::{Captured, feed};
pub use watch::watch;

/// How much of stdout and of stderr is kept unless the caller says otherwise.
pub const DEFAULT_CAPTURE: usize = 1 << 20;

/// How long a job may keep a pipe open after its exit, in a process that left its group.
const DRAIN: Duration = Duration::from_secs(1);

/// Where one output of a job goes.
#[derive(Debug)]
enum Output {
    Capture(usize),
    File(OwnedFd),
    Null,
}

/// A program to be run to its end.
#[derive(Debug)]
pub struct Job {
    spawn: Spawn,
    deadline: Duration,
    stdin: Option<Vec<u8>>,
    stdout: Output,
    stderr: Output,
    leave_running: bool,
}

/// How a job ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its program, for messages.
    pub program: String,
    /// Exit code or signal.
    pub exit: Exit,
    /// What it wrote to stdout, up to the limit.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr, up to the limit.
    pub stderr: Vec<u8>,
    /// True if something of stdout or stderr went beyond its limit.
    pub cut: bool,
    /// How long it ran.
    pub took: Duration,
}

impl Outcome {
    /// The outcome if the exit code was 0.
    ///
    /// # Errors
    /// [`Error::Failed`] with the exit and what the program said on stderr (or stdout).
    pub fn success(self) -> Result<Self> {
        if self.exit.success() {
            return Ok(self);
        }
        let said = [&self.stderr, &self.stdout]
            .into_iter()
            .map(|bytes| String::from_utf8_lossy(bytes).trim().to_owned())
            .find(|text| !text.is_empty());
        Err(Error::Failed {
            program: self.program,
            exit: self.exit,
            said: said.unwrap_or_default(),
        })
    }
}

impl Job {
    /// A job that has `deadline` from its start to its exit.
    ///
    /// Stdio, group and session that `spawn` sets are replaced: say them here.
    pub fn new(spawn: Spawn, deadline: Duration) -> Self {
        Self {
            spawn: spawn.group(Group::Own),
            deadline,
            stdin: None,
            stdout: Output::Capture(DEFAULT_CAPTURE),
            stderr: Output::Capture(DEFAULT_CAPTURE),
            leave_running: false,
        }
    }

    /// Feeds these bytes to its stdin, then closes it. A job that does not read them all is fine.
    /// Without this, stdin is /dev/null.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Keeps at most this much of stdout and of stderr, each.
    pub fn capture(mut self, limit: usize) -> Self {
        self.stdout = Output::Capture(limit);
        self.stderr = Output::Capture(limit);
        self
    }

    /// Sends stdout to this file; none is kept.
    pub fn stdout_to(mut self, file: impl Into<OwnedFd>) -> Self {
        self.stdout = Output::File(file.into());
        self
    }

    /// Sends stderr to this file; none is kept.
    pub fn stderr_to(mut self, file: impl Into<OwnedFd>) -> Self {
        self.stderr = Output::File(file.into());
        self
    }

    /// Sends stdout and stderr to /dev/null.
    pub fn silent(mut self) -> Self {
        self.stdout = Output::Null;
        self.stderr = Output::Null;
        self
    }

    /// Leaves alone what the program leaves running in its group when it exits by itself (a shim's
    /// `start`, an OCI runtime's `create`), and does not wait for the pipes such processes hold.
    /// Before its exit, the deadline and a drop still kill the whole group.
    pub fn leave_running(mut self) -> Self {
        self.leave_running = true;
        self
    }

    /// Runs it. Dropping the future kills the process group; the child is then reaped by a task.
    ///
    /// # Errors
    /// [`Error::TimedOut`] after the deadline: the group has been killed, and the error says if the
    /// process could not even then be seen dead (it is reaped in the background, whenever that is).
    /// An exit code other than 0 is no error here: see [`Outcome::success`].
    pub async fn run(self) -> Result<Outcome> {
        let program = self.spawn.program().display().to_string();
        let begin = Instant::now();
        let (spawn, pipes) = self.pipes()?;
        let started = tokio::time::timeout(pipes.deadline, start(spawn)).await;
        let Ok(started) = started else {
            let remains = Some("it has not come to its exec".to_owned());
            return Err(Error::TimedOut {
                program,
                after: pipes.deadline,
                said: String::new(),
                remains,
            });
        };
        let mut running = started?;
        let mut stdout = Captured::new(pipes.stdout, pipes.limits.0)?;
        let mut stderr = Captured::new(pipes.stderr, pipes.limits.1)?;
        let feeding = feed(pipes.stdin, pipes.bytes);
        let work = async {
            // The pipes go on being served until the exit; afterwards only a bounded drain.
            let served = async {
                tokio::join!(stdout.read(), stderr.read(), feeding);
            };
            tokio::select! {
                exited = running.exited() => exited,
                () = served => running.exited().await,
            }
        };
        let left = pipes.deadline.saturating_sub(begin.elapsed());
        let in_time = tokio::time::timeout(left, work).await;
        let Ok(exited) = in_time else {
            return Err(Error::TimedOut {
                program,
                after: pipes.deadline,
                said: stderr.tail(),
                remains: running.kill_and_reap().await,
            });
        };
        exited?;
        let drain = if pipes.leave_running { Duration::ZERO } else { DRAIN };
        let exit = running.reap(!pipes.leave_running)?;
        let both = async {
            tokio::join!(stdout.read(), stderr.read());
        };
        // Cut short only if a process outside the group holds the pipe: what is there is ours.
        let _ = tokio::time::timeout(drain, both).await;
        stdout.read_ready();
        stderr.read_ready();
        let cut = stdout.cut() || stderr.cut();
        let (stdout, stderr) = (stdout.into_bytes(), stderr.into_bytes());
        Ok(Outcome { program, exit, stdout, stderr, cut, took: begin.elapsed() })
    }

    fn pipes(self) -> Result<(Spawn, Pipes)> {
        let mut spawn = self.spawn;
        let mut pipes = Pipes {
            stdin: None,
            bytes: Vec::new(),
            stdout: None,
            stderr: None,
            limits: (0, 0),
            deadline: self.deadline,
            leave_running: self.leave_running,
        };
        if let Some(bytes) = self.stdin {
            let (read, write) = pipe::pipe()?;
            spawn = spawn.stdin(read);
            pipes.stdin = Some(write);
            pipes.bytes = bytes;
        }
        match self.stdout {
            Output::Capture(limit) => {
                let (read, write) = pipe::pipe()?;
                spawn = spawn.stdout(write);
                (pipes.stdout, pipes.limits.0) = (Some(read), limit);
            }
            Output::File(file) => spawn = spawn.stdout(file),
            Output::Null => {}
        }
        match self.stderr {
            Output::Capture(limit) => {
                let (read, write) = pipe::pipe()?;
                spawn = spawn.stderr(write);
                (pipes.stderr, pipes.limits.1) = (Some(read), limit);
            }
            Output::File(file) => spawn = spawn.stderr(file),
            Output::Null => {}
        }
        Ok((spawn, pipes))
    }
}

/// Our ends of a job's pipes, and what to do with them.
struct Pipes {
    stdin: Option<OwnedFd>,
    bytes: Vec<u8>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    limits: (usize, usize),
    deadline: Duration,
    leave_running: bool,
}

/// Spawns on a thread that may block, where there are such: entering a cgroup can take 20 ms, and
/// entering a frozen one lasts until that thaws.
///
/// If this future is dropped meanwhile, the blocking task drops the `Running`, which kills it.
async fn start(spawn: Spawn) -> Result<Running> {
    use tokio::runtime::{Handle, RuntimeFlavor};
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        return Running::new(spawn.spawn()?);
    }
    match tokio::task::spawn_blocking(|| Running::new(spawn.spawn()?)).await {
        Ok(running) => running,
        Err(_) => Err(Error::Stopping),
    }
}
