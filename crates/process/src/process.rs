//! One process that the shim answers for: the init of a container, or an exec.
//!
//! ```text
//!  Added ──▶ Starting ──▶ Running ──▶ Ended        (exec)
//!  Created ─▶ Starting ──▶ Running ──▶ Ended       (init; Created has a pid already)
//! ```

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use berth_sys::{Pid, Signal};
use tokio::sync::watch;

use crate::error::{Error, Result};
use crate::pump::lock;
use crate::stdio::Stdio;

/// How long a start waits to see the program take the runtime's place. A program on a disk that
/// answers slowly is not a failure of the start.
const EXEC: Duration = Duration::from_secs(5);
/// The first looks, with everything else in this process held up meanwhile: the event loop's timer
/// would make a millisecond or two of what usually takes a fraction of one.
const QUICK: u32 = 8;
const GLANCE: Duration = Duration::from_micros(100);
/// The first interval between two later looks; it doubles.
const LOOK: Duration = Duration::from_millis(1);

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Exit code, or 128 + the signal that killed it, or 255 if nobody knows.
    pub code: u32,
    /// When.
    pub at: SystemTime,
    /// How many processes of its cgroup the kernel killed for want of memory.
    pub oom_kills: u64,
    /// Log lines that could not be written.
    pub dropped_lines: u64,
}

/// Where a process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waits for its start.
    Ready,
    /// The runtime is at it.
    Starting,
    /// The program runs.
    Running,
    /// It is over, and so is everything it started that could be found.
    Ended(Ended),
    /// The start failed before there was a process.
    Failed,
}

/// What both kinds of process have.
#[derive(Debug)]
pub(crate) struct Life {
    phase: watch::Sender<Phase>,
    pub(crate) stdio: Mutex<Stdio>,
}

impl Life {
    pub(crate) fn new(stdio: Stdio) -> Self {
        Self { phase: watch::Sender::new(Phase::Ready), stdio: Mutex::new(stdio) }
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Moves on from one phase to another; false if it is in neither.
    pub(crate) fn pass(&self, from: Phase, to: Phase) -> bool {
        self.phase.send_if_modified(|phase| {
            let fits = *phase == from;
            if fits {
                *phase = to;
            }
            fits
        })
    }

    pub(crate) fn end(&self, ended: Ended) {
        self.phase.send_replace(Phase::Ended(ended));
    }

    pub(crate) fn fail(&self) {
        self.phase.send_replace(Phase::Failed);
    }

    pub(crate) fn ended(&self) -> Option<Ended> {
        match self.phase() {
            Phase::Ended(ended) => Some(ended),
            _ => None,
        }
    }

    /// Waits for the end. `None` if there was never a process.
    pub(crate) async fn wait(&self) -> Option<Ended> {
        let mut phases = self.phase.subscribe();
        let over = phases.wait_for(|phase| matches!(phase, Phase::Ended(_) | Phase::Failed)).await;
        match over.as_deref() {
            Ok(Phase::Ended(ended)) => Some(*ended),
            _ => None,
        }
    }

    /// Waits until the program has begun to run; for ever, if it never does.
    pub(crate) async fn started(&self) {
        let mut phases = self.phase.subscribe();
        let begun = phases.wait_for(|phase| matches!(phase, Phase::Running | Phase::Ended(_)));
        // The sender is ours: it does not go.
        let _ = begun.await;
    }

    /// Waits until the program runs or never will.
    pub(crate) async fn past_start(&self, limit: Duration) -> bool {
        let mut phases = self.phase.subscribe();
        let started = phases.wait_for(|phase| !matches!(phase, Phase::Starting));
        tokio::time::timeout(limit, started).await.is_ok()
    }

    /// Ends the streams and waits until all output is written; `limit` is for output of somebody
    /// who still holds the other end.
    pub(crate) async fn drain(&self, limit: Duration) {
        let pumps = lock(&self.stdio).end();
        let deadline = Instant::now() + limit;
        for pump in pumps {
            pump.drain(deadline.saturating_duration_since(Instant::now())).await;
        }
    }

    pub(crate) fn resize(&self, id: &str, columns: u32, rows: u32) -> Result<()> {
        let short = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
        if lock(&self.stdio).resize(short(columns), short(rows))? {
            return Ok(());
        }
        Err(Error::state("resize the terminal of", id, "it has none"))
    }
}

/// The identity of the file that a process executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    device: u64,
    inode: u64,
}

impl Program {
    /// `None` if the process is a zombie or gone.
    pub(crate) fn of(pid: Pid) -> Option<Self> {
        let stat = rustix::fs::stat(format!("/proc/{}/exe", pid.as_raw_pid())).ok()?;
        Some(Self { device: stat.st_dev, inode: stat.st_ino })
    }

    /// Waits until `pid` runs another program than this one, or is over. runc answers `start`
    /// before its exec: a signal sent in between would meet the runtime and be lost.
    pub(crate) async fn replaced(self, pid: Pid) {
        for _ in 0..QUICK {
            if Self::of(pid) != Some(self) {
                return;
            }
            std::thread::sleep(GLANCE);
        }
        let end = Instant::now() + EXEC;
        let mut interval = LOOK;
        while Self::of(pid) == Some(self) && Instant::now() < end {
            tokio::time::sleep(interval).await;
            interval = (interval * 2).min(Duration::from_millis(50));
        }
    }
}

/// This very program, also where its file was replaced or removed meanwhile: a pod outlives that.
pub(crate) fn own_program() -> Result<PathBuf> {
    const RUNS: &str = "/proc/self/exe";
    let path = std::env::current_exe().map_err(|e| Error::file("find", "own program", e))?;
    let is =
        |path: &std::path::Path| rustix::fs::stat(path).ok().map(|stat| (stat.st_dev, stat.st_ino));
    let there = is(&path).is_some_and(|there| Some(there) == is(RUNS.as_ref()));
    Ok(if there { path } else { RUNS.into() })
}

/// Reads a signal's number from a request.
pub(crate) fn signal(number: u32) -> Result<Signal> {
    i32::try_from(number)
        .ok()
        .and_then(Signal::from_number)
        .ok_or_else(|| Error::Invalid(format!("{number} is not a signal; use 1 to 64")))
}
