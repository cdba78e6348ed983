//! A child that was started: waiting for it and killing it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use super::exit::Exit;
use crate::error::{Attempt, Error, Result};
use crate::signal::{self, Signal};

/// A child process of this one. Dropping it neither kills nor reaps it: whoever holds it must
/// wait, or a zombie stays until this process ends.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    ended: Option<Exit>,
}

impl Child {
    pub(crate) fn new(pid: Pid, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd, ended: None }
    }

    /// Its process id, which stays its own until it is reaped.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Its pidfd: readable once it has exited.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Gives up the handle for the bare pid and pidfd; somebody else reaps.
    pub fn into_pidfd(self) -> (Pid, OwnedFd) {
        (self.pid, self.pidfd)
    }

    /// How it ended, without reaping it: its pid and process group stay reserved. `None` while it
    /// runs.
    pub fn peek(&mut self) -> Result<Option<Exit>> {
        self.ask(WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT)
    }

    /// Reaps it if it has ended; `None` while it runs.
    pub fn try_wait(&mut self) -> Result<Option<Exit>> {
        let ended = self.ask(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)?;
        self.ended = ended;
        Ok(ended)
    }

    /// Waits up to `limit` for its end and reaps it; `None` if it still runs then.
    pub fn wait(&mut self, limit: Duration) -> Result<Option<Exit>> {
        if self.ended.is_none() && !crate::pidfd::wait_exited(&self.pidfd, limit)? {
            return Ok(None);
        }
        self.try_wait()
    }

    /// Sends it a signal. True if it was there to get it, false if it had been reaped.
    pub fn kill(&self, signal: Signal) -> Result<bool> {
        match crate::pidfd::send(&self.pidfd, signal) {
            Ok(()) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends a signal to the process group it leads (see [`super::Group`]). True if anybody was
    /// there. Once the child is reaped its number may belong to a stranger: then nothing is sent.
    pub fn kill_group(&self, signal: Signal) -> Result<bool> {
        if self.ended.is_some() {
            return Ok(false);
        }
        match signal::send_group(self.pid, signal) {
            Ok(()) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn ask(&self, options: WaitIdOptions) -> Result<Option<Exit>> {
        if let Some(exit) = self.ended {
            return Ok(Some(exit));
        }
        let answer = loop {
            match waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
                Err(Errno::INTR) => {}
                other => break other.on_thing("wait for process", self.pid.as_raw_pid())?,
            }
        };
        let Some(status) = answer else { return Ok(None) };
        Exit::from_wait(&status).map(Some).ok_or_else(|| Error::Malformed {
            file: format!("wait status of process {}", self.pid.as_raw_pid()),
            text: format!("code {}", status.raw_code()),
            reason: "neither an exit nor a signal",
        })
    }
}
