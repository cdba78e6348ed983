//! Reaping as a subreaper: every process of every container ends up as this process's child.
//!
//! A child that somebody here waits for is *claimed* and reaped only by its claimant, through its
//! pidfd. Everything else that was handed to us when its parent died is reaped by the sweep. While
//! a runtime is about to hand over a process (create, exec) nothing is swept: that process may be
//! dead before its claim.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use berth_sys::{Pid, Signal};
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus, waitid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::error::{Error, Result};
use crate::pump::lock;

/// Exit code of a process whose end nobody could see.
pub const UNKNOWN: u32 = 255;

/// Who waits for which child.
#[derive(Debug, Default)]
pub struct Reaper {
    claims: Mutex<Claims>,
    again: Notify,
}

#[derive(Debug, Default)]
struct Claims {
    claimed: HashSet<Pid>,
    handovers: usize,
}

impl Reaper {
    /// Makes this process a subreaper and starts to reap what nobody claims.
    pub fn start() -> Result<Arc<Self>> {
        berth_sys::thread::set_child_subreaper()?;
        let reaper = Arc::new(Self::default());
        // Not tokio's signals: an entry for each signal there is takes 22 KB in every shim.
        let deaths = berth_job::watch(berth_sys::signal::deaths()?, Interest::READABLE)
            .map_err(|e| Error::file("watch", "SIGCHLD", e))?;
        let sweeper = Arc::clone(&reaper);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    death = deaths.readable() => {
                        if let Ok(mut death) = death {
                            death.clear_ready();
                        }
                    }
                    () = sweeper.again.notified() => {}
                }
                sweeper.sweep();
            }
        });
        Ok(reaper)
    }

    /// Claims a child: only the holder of the claim reaps it.
    pub(crate) fn claim(self: &Arc<Self>, pid: Pid) -> Claim {
        lock(&self.claims).claimed.insert(pid);
        Claim { reaper: Arc::clone(self), pid }
    }

    /// Nothing is swept while the answer lives.
    pub(crate) fn handover(self: &Arc<Self>) -> Handover {
        lock(&self.claims).handovers += 1;
        Handover(Arc::clone(self))
    }

    fn sweep(&self) {
        let claims = lock(&self.claims);
        if claims.handovers > 0 {
            return;
        }
        let Ok(children) = berth_sys::process::children(rustix::process::getpid()) else { return };
        for pid in children.into_iter().filter(|pid| !claims.claimed.contains(pid)) {
            // Not an error if it lives: then there is nothing to collect yet.
            let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        }
    }
}

/// See [`Reaper::claim`].
#[derive(Debug)]
pub(crate) struct Claim {
    reaper: Arc<Reaper>,
    pid: Pid,
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.reaper.claims).claimed.remove(&self.pid);
        // Whoever gives up a claim without having reaped leaves that to the sweep.
        self.reaper.again.notify_one();
    }
}

/// See [`Reaper::handover`].
#[derive(Debug)]
pub(crate) struct Handover(Arc<Reaper>);

impl Drop for Handover {
    fn drop(&mut self) {
        lock(&self.0.claims).handovers -= 1;
        self.0.again.notify_one();
    }
}

/// A process that is waited for.
#[derive(Debug)]
pub(crate) struct Watched {
    pid: Pid,
    pidfd: AsyncFd<OwnedFd>,
    _claim: Claim,
}

impl Watched {
    /// Takes over a process that was handed to us; it may have exited already. Whoever names it may
    /// be wrong: it must be our child by now, and nobody else's affair.
    pub(crate) fn adopt(
        reaper: &Arc<Reaper>,
        pid: Pid,
    ) -> Result<std::result::Result<Self, &'static str>> {
        let pidfd = match berth_sys::pidfd::open(pid) {
            Err(error) if error.is_not_found() => return Ok(Err("is not there")),
            opened => opened?,
        };
        // Read after the open: it cannot have come to name another process since.
        let parent = berth_sys::process::stat(pid).map(|stat| stat.parent);
        if parent.ok() != Some(rustix::process::getpid().as_raw_pid()) {
            return Ok(Err("it did not start"));
        }
        if lock(&reaper.claims).claimed.contains(&pid) {
            return Ok(Err("is another one's"));
        }
        let claim = reaper.claim(pid);
        Self::new(pid, pidfd, claim).map(Ok)
    }

    /// Watches a child that was just started.
    pub(crate) fn child(reaper: &Arc<Reaper>, child: berth_sys::spawn::Child) -> Result<Self> {
        let (pid, pidfd) = child.into_pidfd();
        let claim = reaper.claim(pid);
        Self::new(pid, pidfd, claim)
    }

    fn new(pid: Pid, pidfd: OwnedFd, claim: Claim) -> Result<Self> {
        let pidfd = berth_job::watch(pidfd, Interest::READABLE)
            .map_err(|e| Error::file("watch the pidfd of", format!("/proc/{pid:?}"), e))?;
        Ok(Self { pid, pidfd, _claim: claim })
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits for the end of the process and reaps it; its exit code as shells show it.
    pub(crate) async fn exited(&self) -> u32 {
        self.over().await;
        self.ended(|_| ())
    }

    /// Waits for the end of the process; its pid stays its own until [`Watched::ended`].
    pub(crate) async fn over(&self) {
        // An error is an end that nobody can see.
        let _ = self.pidfd.readable().await;
    }

    /// Whether it has ended, reaped or not.
    pub(crate) fn has_ended(&self) -> bool {
        !berth_sys::pidfd::alive(&self.pidfd).unwrap_or(false)
    }

    /// Reaps the ended process after `first` has seen its exit code.
    pub(crate) fn ended(&self, first: impl FnOnce(u32)) -> u32 {
        let wait = |options| {
            let pidfd = || WaitId::PidFd(std::os::fd::AsFd::as_fd(&self.pidfd));
            let status =
                rustix::io::retry_on_intr(|| waitid(pidfd(), options | WaitIdOptions::NOHANG));
            // Not our child: somebody between us and it still lives and will reap it.
            status.ok().flatten().map_or(UNKNOWN, |status| code(&status))
        };
        first(wait(WaitIdOptions::EXITED | WaitIdOptions::NOWAIT));
        wait(WaitIdOptions::EXITED)
    }

    /// Sends a signal. False if the process has been reaped.
    pub(crate) fn signal(&self, signal: Signal) -> Result<bool> {
        match berth_sys::pidfd::send(&self.pidfd, signal) {
            Ok(()) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Kills its process group, which it must lead and not have left.
    pub(crate) fn kill_group(&self) {
        let _ = berth_sys::signal::send_group(self.pid, Signal::KILL);
    }
}

fn code(status: &WaitIdStatus) -> u32 {
    let signal = status.terminating_signal().map(|signal| 128 + signal);
    status.exit_status().or(signal).and_then(|code| u32::try_from(code).ok()).unwrap_or(UNKNOWN)
}
