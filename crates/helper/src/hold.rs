//! Keeps what is in a container's fifos while no daemon reads them.
//!
//! Without a reader a shim that holds only its own end would be killed by the first write, and what
//! the last writer leaves in a fifo is lost with the last descriptor of it. So a process of this
//! program keeps the reading ends open, and reads nothing. It ends by itself: once the writers have
//! gone, and somebody else has read what they left.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use berth_sys::pipe::{FifoEnd, open_fifo};
use berth_sys::{fork, thread};
use rustix::event::{PollFd, PollFlags, poll};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How often a fifo whose writers have gone is looked at: nothing tells that it has become empty.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    fifos: Vec<PathBuf>,
}

#[derive(Serialize)]
pub(crate) struct Holder {
    pid: i32,
}

/// Answers when the fifos are open; the process that holds them goes on.
pub(crate) fn hold(request: Request) -> Result<Holder> {
    let ends: berth_sys::Result<Vec<_>> =
        request.fifos.iter().map(|path| open_fifo(path, FifoEnd::Read)).collect();
    let ends = ends?;
    let null = std::fs::File::options().read(true).write(true).open("/dev/null");
    let null = null.map_err(|source| Error::io("open /dev/null", source))?;
    let child = fork::fork(move || {
        // Nobody waits for the end of what this process was given to talk to.
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
        let _ = rustix::process::setsid();
        let _ = thread::set_name("hold");
        until_read(ends);
        0
    })?;
    Ok(Holder { pid: child.pid().as_raw_nonzero().get() })
}

/// Returns when there is nothing left to keep.
fn until_read(mut ends: Vec<OwnedFd>) {
    while !ends.is_empty() {
        // Nothing is asked for, and the departure of the last writer is told all the same.
        let mut fds: Vec<_> = ends.iter().map(|end| PollFd::new(end, PollFlags::empty())).collect();
        if poll(&mut fds, None).is_err() {
            continue;
        }
        let gone: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let mut at = 0;
        ends.retain(|end| {
            at += 1;
            let empty = rustix::io::ioctl_fionread(end).unwrap_or(0) == 0;
            !(gone[at - 1] && empty)
        });
        if !ends.is_empty() {
            std::thread::sleep(LOOK);
        }
    }
}
