//! A child that runs: waited for by its pidfd, killed and reaped when dropped.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use berth_sys::spawn::{Child, Exit};
use berth_sys::{Signal, process};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::{Error, Result};

/// How long a killed process may take to die before it is reported as remaining.
const DEATH: Duration = Duration::from_secs(5);

/// Whether this process is about to end.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Says that this process is about to end: from now on a job that is dropped goes on, as it would
/// if the process were killed. Whoever comes after finds it, and lets it end or ends it.
pub fn leave_running() {
    ENDING.store(true, Ordering::Release);
}

/// A child and the watch on its pidfd. `None` once reaped or handed over.
pub(crate) struct Running(Option<Watched>);

struct Watched {
    child: Child,
    pidfd: AsyncFd<OwnedFd>,
}

impl Running {
    pub(crate) fn new(child: Child) -> Result<Self> {
        match watch(&child) {
            Ok(pidfd) => Ok(Self(Some(Watched { child, pidfd }))),
            Err(error) => {
                kill_group(&child);
                reap_on_a_thread(child);
                Err(error)
            }
        }
    }

    /// Waits for its exit, without reaping: its process group stays its own.
    pub(crate) async fn exited(&self) -> Result<()> {
        match &self.0 {
            Some(watched) => watched.exited().await,
            None => Ok(()),
        }
    }

    /// Reaps the exited child, and before that kills what it left in its group, if so wished.
    pub(crate) fn reap(&mut self, leftovers: bool) -> Result<Exit> {
        let Some(watched) = &mut self.0 else { return Err(Error::Stopping) };
        if leftovers {
            kill_group(&watched.child);
        }
        let exit = watched.child.try_wait()?.ok_or(Error::Stopping)?;
        self.0 = None;
        Ok(exit)
    }

    /// Kills the group and waits a while for the child's death. Says who remains, if it does.
    pub(crate) async fn kill_and_reap(&mut self) -> Option<String> {
        let watched = self.0.as_mut()?;
        kill_group(&watched.child);
        if let Ok(Ok(())) = tokio::time::timeout(DEATH, watched.exited()).await {
            // An error means that somebody else reaped it: dead all the same.
            let _ = watched.child.try_wait();
            self.0 = None;
            return None;
        }
        Some(describe(&watched.child))
        // Dropping `self` leaves it to a task.
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(watched) = self.0.take() else { return };
        if ENDING.load(Ordering::Acquire) {
            return;
        }
        kill_group(&watched.child);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(watched.reap())),
            Err(_) => reap_on_a_thread(watched.child),
        }
    }
}

impl Watched {
    async fn exited(&self) -> Result<()> {
        match self.pidfd.ready(Interest::READABLE).await {
            Ok(mut ready) => {
                ready.retain_ready();
                Ok(())
            }
            Err(source) => Err(Error::Watch { source }),
        }
    }

    /// Without a deadline, on purpose: a process in an uninterruptible wait dies when that ends.
    async fn reap(mut self) {
        if self.exited().await.is_ok() {
            let _ = self.child.try_wait();
        }
    }
}

fn watch(child: &Child) -> Result<AsyncFd<OwnedFd>> {
    let pidfd = child.pidfd().try_clone_to_owned().map_err(|source| Error::Watch { source })?;
    crate::watch(pidfd, Interest::READABLE).map_err(|source| Error::Watch { source })
}

/// The group cannot be a stranger's: its leader is not reaped yet. An error (the child changed its
/// group or credentials) leaves the child itself, which is killed by its pidfd.
fn kill_group(child: &Child) {
    let _ = child.kill_group(Signal::KILL);
    let _ = child.kill(Signal::KILL);
}

/// The way out without a runtime: the process is ending, or its epoll is full.
fn reap_on_a_thread(mut child: Child) {
    let reaper = std::thread::Builder::new().name("reaper".to_owned());
    // If no thread can be had either, the zombie goes with this process.
    let _ = reaper.spawn(move || child.wait(Duration::from_secs(3600)));
}

fn describe(child: &Child) -> String {
    let pid = child.pid();
    let state = process::stat(pid).map_or('?', |stat| stat.state.letter());
    let place = process::wait_channel(pid).unwrap_or_default();
    let place = if place.is_empty() { "unknown".to_owned() } else { place };
    format!("pid {} in state {state} waiting in {place}", pid.as_raw_pid())
}
