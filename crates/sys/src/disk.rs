//! How full a file system is, and how much a directory tree holds.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};

use crate::error::{Attempt, Error, Result};

/// The figures of one file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileSystem {
    /// Size in bytes.
    pub total: u64,
    /// Bytes that an unprivileged process may still use.
    pub available: u64,
    /// Bytes in use.
    pub used: u64,
    /// All inodes; 0 where the file system does not count them.
    pub inodes: u64,
    /// Free inodes.
    pub inodes_free: u64,
}

/// Asks a file system for its figures (statfs(2)). May block on a network file system.
pub fn file_system(path: impl AsRef<Path>) -> Result<FileSystem> {
    let path = path.as_ref();
    let stat = rustix::fs::statvfs(path).on_path("statfs", path)?;
    Ok(FileSystem {
        total: stat.f_blocks.saturating_mul(stat.f_frsize),
        available: stat.f_bavail.saturating_mul(stat.f_frsize),
        used: stat.f_blocks.saturating_sub(stat.f_bfree).saturating_mul(stat.f_frsize),
        inodes: stat.f_files,
        inodes_free: stat.f_ffree,
    })
}

/// What a directory tree holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes allocated on disk (blocks, not lengths: holes cost nothing).
    pub bytes: u64,
    /// Files, directories and everything else; an inode with several names counts once.
    pub inodes: u64,
}

/// Sums up a tree, the directory itself included, without leaving its file system or following
/// symbolic links. `go_on` is asked before each directory; once it answers false the result is
/// `None`. Entries that vanish meanwhile are left out. An absent tree is empty.
pub fn usage(path: impl AsRef<Path>, mut go_on: impl FnMut() -> bool) -> Result<Option<Usage>> {
    let path = path.as_ref();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
        Ok(root) => root,
        Err(rustix::io::Errno::NOENT) => return Ok(Some(Usage::default())),
        Err(errno) => return Err(Error::path("open", path, errno)),
    };
    let stat = rustix::fs::fstat(&root).on_path("stat", path)?;
    let mut sum = Usage { bytes: blocks(&stat), inodes: 1 };
    let mut linked = HashSet::new();
    // Names of the open directories' paths are not kept: each level holds its descriptor, so the
    // depth is bounded by the limit of open files, and such a tree is refused with Exhausted.
    let mut open = vec![Level::new(root).on_path("list", path)?];
    while let Some(level) = open.last_mut() {
        if !go_on() {
            return Ok(None);
        }
        match level.next(stat.st_dev, &mut sum, &mut linked).on_path("walk", path)? {
            Some(directory) => open.push(Level::new(directory).on_path("list", path)?),
            None => drop(open.pop()),
        }
    }
    Ok(Some(sum))
}

struct Level {
    fd: OwnedFd,
    entries: Dir,
}

impl Level {
    fn new(fd: OwnedFd) -> std::io::Result<Self> {
        let entries = Dir::read_from(fd.as_fd())?;
        Ok(Self { fd, entries })
    }

    /// Counts entries up to and including the next directory, which is returned open.
    fn next(
        &mut self,
        device: u64,
        sum: &mut Usage,
        linked: &mut HashSet<u64>,
    ) -> std::io::Result<Option<OwnedFd>> {
        while let Some(entry) = self.entries.read() {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let stat = match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(rustix::io::Errno::NOENT) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if directory && stat.st_dev != device {
                continue;
            }
            if !directory && stat.st_nlink > 1 && !linked.insert(stat.st_ino) {
                continue;
            }
            sum.bytes += blocks(&stat);
            sum.inodes += 1;
            if directory {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
                    Ok(fd) => return Ok(Some(fd)),
                    Err(rustix::io::Errno::NOENT) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
        Ok(None)
    }
}

fn blocks(stat: &rustix::fs::Stat) -> u64 {
    // st_blocks counts 512-byte units whatever the file system's block size (stat(2)).
    u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512)
}
