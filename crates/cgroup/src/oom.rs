//! Being told when the kernel runs out of a cgroup's memory.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::EventfdFlags;
use rustix::fs::inotify::{CreateFlags, WatchFlags};
use rustix::fs::{CWD, Mode, OFlags};

use crate::error::{Error, Result};
use crate::files;

/// Readable when something happened: read the counter ([`crate::Cgroup::oom_kills`]) to learn
/// whether a process was killed. On v1 it also becomes readable when the cgroup is removed.
#[derive(Debug)]
pub struct OomWatch {
    fd: OwnedFd,
}

impl OomWatch {
    /// By an eventfd (cgroup-v1/memory.rst, section 10).
    pub(crate) fn v1(directory: &Path) -> Result<Self> {
        let control = directory.join("memory.oom_control");
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let fd = rustix::event::eventfd(0, flags)
            .map_err(|errno| Error::file("make an eventfd for", &control, errno))?;
        // The kernel keeps its own reference on the file: ours may be closed.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(CWD, &control, flags, Mode::empty())
            .map_err(|errno| Error::file("open", &control, errno))?;
        let wish = format!("{} {}", fd.as_raw_fd(), file.as_raw_fd());
        files::write(&directory.join("cgroup.event_control"), &wish)?;
        Ok(Self { fd })
    }

    /// By inotify on memory.events (cgroup-v2.rst: "changes generate a file modified event").
    pub(crate) fn v2(directory: &Path) -> Result<Self> {
        let file = directory.join("memory.events");
        let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
        let fd = rustix::fs::inotify::init(flags)
            .map_err(|errno| Error::file("make an inotify for", &file, errno))?;
        rustix::fs::inotify::add_watch(&fd, &file, WatchFlags::MODIFY)
            .map_err(|errno| Error::file("watch", &file, errno))?;
        Ok(Self { fd })
    }

    /// Takes what was told, so that it becomes readable again only with the next event.
    pub fn clear(&self) {
        let mut buffer = [0; 4096];
        while rustix::io::read(&self.fd, &mut buffer).is_ok_and(|count| count > 0) {}
    }

    /// Gives up the descriptor, to be watched by other means.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
