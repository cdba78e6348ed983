//! Whole trees beneath a root: listing, making parents, removing.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
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
        self.resolve(path, flags, Mode::empty()).and_then(names).on_path("list", self.shown(path))
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
    /// followed; absent is fine. Other file systems mounted within make it fail with Busy.
    pub fn remove_all(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let result = self.split(path).and_then(|(dir, name)| remove(dir, &name));
        match result {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            other => other.on_path("remove the tree", self.shown(path)),
        }
    }
}

fn names(dir: OwnedFd) -> rustix::io::Result<Vec<OsString>> {
    let mut found = Vec::new();
    for entry in Dir::new(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            found.push(OsString::from_vec(name.to_bytes().to_vec()));
        }
    }
    Ok(found)
}

/// One directory of a removal: its parent is the level before.
struct Level {
    fd: OwnedFd,
    name: OsString,
    rest: Vec<OsString>,
}

/// Without recursion: a hostile image may nest deeper than a stack. Each level keeps a descriptor
/// open, so the limit of open files bounds the depth (EMFILE).
fn remove(parent: OwnedFd, name: &OsStr) -> rustix::io::Result<()> {
    let Some(first) = unlink_or_open(parent.as_fd(), name)? else { return Ok(()) };
    let mut open = vec![first];
    while let Some(level) = open.last_mut() {
        if let Some(next) = level.rest.pop() {
            match unlink_or_open(level.fd.as_fd(), &next) {
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

fn unlink_or_open(
    dir: std::os::fd::BorrowedFd<'_>,
    name: &OsStr,
) -> rustix::io::Result<Option<Level>> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
        return Ok(None);
    }
    let fd = rustix::fs::openat(dir, name, DIRECTORY, Mode::empty())?;
    let rest = names(rustix::io::fcntl_dupfd_cloexec(&fd, 0)?)?;
    Ok(Some(Level { fd, name: name.to_owned(), rest }))
}
