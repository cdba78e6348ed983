//! How much disk a tree takes: a walk that never follows a link and never leaves the file system.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

/// What a tree takes of its file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of disk, in whole blocks.
    pub bytes: u64,
    /// Inodes, each counted once however many names it has.
    pub inodes: u64,
}

/// A measured tree: its usage, and the sum of its file sizes, which does not change with the block
/// allocation and so can be compared later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Measured {
    pub(crate) usage: Usage,
    pub(crate) content: u64,
}

/// Deeper directories are not counted: each level holds two descriptors while it is read.
const MAX_DEPTH: usize = 100;

/// Walks a tree. What vanishes meanwhile is not counted.
pub(crate) fn measure(path: &Path) -> io::Result<Measured> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::open(path, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&top)?;
    let mut walk = Walk { device: stat.st_dev, linked: HashSet::new(), sum: Measured::default() };
    walk.count(&stat);
    walk.directory(&top, 0)?;
    Ok(walk.sum)
}

struct Walk {
    device: u64,
    linked: HashSet<u64>,
    sum: Measured,
}

impl Walk {
    fn count(&mut self, stat: &rustix::fs::Stat) {
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && stat.st_nlink > 1 && !self.linked.insert(stat.st_ino) {
            return;
        }
        self.sum.usage.inodes += 1;
        self.sum.usage.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        if kind == FileType::RegularFile {
            self.sum.content += u64::try_from(stat.st_size).unwrap_or(0);
        }
    }

    fn directory(&mut self, directory: &OwnedFd, depth: usize) -> io::Result<()> {
        for entry in rustix::fs::Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                stat => stat?,
            };
            self.count(&stat);
            let deeper = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if !deeper || stat.st_dev != self.device || depth == MAX_DEPTH {
                continue;
            }
            match open(directory.as_fd(), name) {
                Ok(fd) => self.directory(&fd, depth + 1)?,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn open(at: std::os::fd::BorrowedFd<'_>, name: &std::ffi::CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hard_links_count_once_and_links_are_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("d")).unwrap();
        std::fs::write(temp.path().join("d/a"), vec![1u8; 10_000]).unwrap();
        std::fs::hard_link(temp.path().join("d/a"), temp.path().join("b")).unwrap();
        std::os::unix::fs::symlink("/", temp.path().join("out")).unwrap();
        let measured = measure(temp.path()).unwrap();
        assert_eq!(measured.usage.inodes, 4);
        assert_eq!(measured.content, 10_000);
        assert!(measured.usage.bytes >= 10_000);
    }

    #[test]
    fn wide_trees_are_counted_whole() {
        let temp = tempfile::tempdir().unwrap();
        for i in 0..150 {
            std::fs::create_dir_all(temp.path().join(format!("{i}/x/y"))).unwrap();
        }
        assert_eq!(measure(temp.path()).unwrap().usage.inodes, 1 + 3 * 150);
    }
}
