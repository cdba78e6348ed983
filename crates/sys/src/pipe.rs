//! Pipes and fifos.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::pipe::PipeFlags;

use crate::error::{Attempt, Result};

/// Makes a pipe: (read end, write end), both close-on-exec.
pub fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).on_thing("make", "a pipe")
}

/// Makes a fifo; Exists if the path is taken.
pub fn make_fifo(path: impl AsRef<Path>, mode: u32) -> Result<()> {
    let path = path.as_ref();
    rustix::fs::mknodat(CWD, path, rustix::fs::FileType::Fifo, Mode::from_raw_mode(mode), 0)
        .on_path("make the fifo", path)
}

/// How to open a fifo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FifoEnd {
    /// For reading; does not wait for a writer. Without a writer reads give end of file.
    Read,
    /// For writing; NotFound (ENXIO) while nobody reads.
    Write,
    /// Both, which never waits and keeps the fifo open whoever comes and goes (fifo(7)).
    Both,
}

/// Opens a fifo without blocking, neither now nor on reads and writes.
///
/// # Errors
/// Invalid if the path is something else: a plain file put there must not be taken for a fifo.
pub fn open_fifo(path: impl AsRef<Path>, end: FifoEnd) -> Result<OwnedFd> {
    let path = path.as_ref();
    let access = match end {
        FifoEnd::Read => OFlags::RDONLY,
        FifoEnd::Write => OFlags::WRONLY,
        FifoEnd::Both => OFlags::RDWR,
    };
    let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let fd = rustix::fs::openat(CWD, path, flags, Mode::empty()).on_path("open the fifo", path)?;
    let stat = rustix::fs::fstat(&fd).on_path("stat the fifo", path)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Fifo {
        return Err(crate::Error::Argument {
            what: "fifo",
            value: path.display().to_string(),
            reason: "is not a fifo",
        });
    }
    Ok(fd)
}

/// Makes reads and writes of a descriptor non-blocking, or blocking again. This is a property of
/// the open file, seen by everybody who shares it.
pub fn set_nonblocking(fd: impl AsFd, nonblocking: bool) -> Result<()> {
    let mut flags = rustix::fs::fcntl_getfl(&fd).on_thing("read the flags of", "a descriptor")?;
    flags.set(OFlags::NONBLOCK, nonblocking);
    rustix::fs::fcntl_setfl(&fd, flags).on_thing("set the flags of", "a descriptor")
}
