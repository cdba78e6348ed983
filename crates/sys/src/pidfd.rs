//! Processes by descriptor: a pidfd names one process and never its successor in the number.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags};

use crate::error::{Attempt, Result};
use crate::signal::Signal;

/// Opens a pidfd (Linux 5.3). Close-on-exec by definition.
///
/// # Errors
/// NotFound if there is no such process; Invalid if the number is that of a thread.
pub fn open(pid: Pid) -> Result<OwnedFd> {
    rustix::process::pidfd_open(pid, PidfdFlags::empty())
        .on_thing("open a pidfd of process", pid.as_raw_pid())
}

/// Sends a signal (Linux 5.1). NotFound once the process is reaped.
pub fn send(pidfd: impl AsFd, signal: Signal) -> Result<()> {
    rustix::process::pidfd_send_signal(pidfd, signal.raw())
        .on_thing("send to a pidfd the signal", signal)
}

/// Waits until the process has exited (it may still be a zombie). True if it has, false if the
/// time was up first.
pub fn wait_exited(pidfd: impl AsFd, limit: Duration) -> Result<bool> {
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(crate::Error::on("poll", "a pidfd", errno)),
        }
    }
}

/// Whether the process is alive: neither a zombie nor gone.
pub fn alive(pidfd: impl AsFd) -> Result<bool> {
    wait_exited(pidfd, Duration::ZERO).map(|exited| !exited)
}
