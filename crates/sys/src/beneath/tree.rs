//! Whole trees beneath a root: listing, making parents, removing.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::Beneath;
use crate::error::{Attempt, Error, Kind, Result};

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Beneath {
    /// The names in a directory, in no order.
    pub fn list(&self, path: impl AsRef<Path>) -> Result<Vec<OsString>> {
        let path = path.as_ref();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let entries = self.resolve(path, flags, Mode::empty()).and_then(entries);
        let names = entries.map(|all| all.into_iter().map(|entry| entry.name).collect());
        names.on_path("list", self.shown(path))
    }

    /// Makes a directory and those above it that are missing; what exists stays as it is.
    /// True if the last one was made now.
    pub fn mkdir_all(&self, path: impl AsRef<Path>, mode: u32) -> Result<bool> {
        let path = path.as_ref();
        let mut done = PathBuf::new();
        let mut made = false;
        for component in path.components() {
            match component {
                Component::Normal(name) => done.push(name),
                Component::RootDir | Component::CurDir => continue,
                Component::ParentDir | Component::Prefix(_) => {
                    return Err(Error::path("make the directory", self.shown(path), Errno::INVAL));
                }
            }
            made = match self.mkdir(&done, mode) {
                Ok(()) => true,
                Err(error) if error.kind() == Kind::Exists => false,
                Err(error) => return Err(error),
            };
        }
        Ok(made)
    }

    /// Removes whatever `path` names, a directory with all in it. Symbolic links are removed, not
    /// followed; absent is fine.
    ///
    /// Nothing that is mounted at it or within is entered or asked: there it stops and fails with
    /// Busy. What came before in no order is gone then.
    pub fn remove_all(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let result = self.split(path).and_then(|(dir, name)| remove(dir, &name));
        match result {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            other => other.on_path("remove the tree", self.shown(path)),
        }
    }
}

/// A name in a directory, and whether it is known to be no directory itself.
struct Entry {
    name: OsString,
    plain: bool,
}

fn entries(dir: OwnedFd) -> rustix::io::Result<Vec<Entry>> {
    let mut found = Vec::new();
    for entry in Dir::new(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            let plain = !matches!(entry.file_type(), FileType::Directory | FileType::Unknown);
            found.push(Entry { name: OsString::from_vec(name.to_bytes().to_vec()), plain });
        }
    }
    Ok(found)
}

/// One directory of a removal: its parent is the level before.
struct Level {
    fd: OwnedFd,
    name: OsString,
    rest: Vec<Entry>,
}

/// Without recursion: a hostile image may nest deeper than a stack. Each level keeps a descriptor
/// open, so the limit of open files bounds the depth (EMFILE).
fn remove(parent: OwnedFd, name: &OsStr) -> rustix::io::Result<()> {
    let first = Entry { name: name.to_owned(), plain: false };
    let Some(first) = unlink_or_open(parent.as_fd(), first)? else { return Ok(()) };
    let mut open = vec![first];
    while let Some(level) = open.last_mut() {
        if let Some(next) = level.rest.pop() {
            match unlink_or_open(level.fd.as_fd(), next) {
                Ok(Some(below)) => open.push(below),
                Ok(None) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        } else if let Some(done) = open.pop() {
            let above = open.last().map_or(parent.as_fd(), |level| level.fd.as_fd());
            match rustix::fs::unlinkat(above, &done.name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    Ok(())
}

/// Not stat(2), which would ask what is mounted there: the kernel says by itself what is a
/// directory, and neither an unlink nor this open crosses to another mount.
fn unlink_or_open(dir: BorrowedFd<'_>, entry: Entry) -> rustix::io::Result<Option<Level>> {
    let Entry { name, plain } = entry;
    if !plain {
        let open =
            || rustix::fs::openat2(dir, &name, DIRECTORY, Mode::empty(), ResolveFlags::NO_XDEV);
        match rustix::io::retry_on_intr(open) {
            Ok(fd) => {
                let rest = entries(rustix::io::fcntl_dupfd_cloexec(&fd, 0)?)?;
                return Ok(Some(Level { fd, name, rest }));
            }
            Err(Errno::NOTDIR | Errno::LOOP) => {}
            Err(Errno::XDEV) => return Err(Errno::BUSY),
            Err(errno) => return Err(errno),
        }
    }
    rustix::fs::unlinkat(dir, &name, AtFlags::empty()).map(|()| None)
}
