//! A directory that no path leads out of (openat2(2), Linux 5.6).
//!
//! Every path given is relative to the root, whatever it looks like: the directory part is resolved
//! by the kernel under [`Follow`]'s rule, magic links refused; the last part is then used by its
//! name, so a symbolic link there is never followed (except by [`Beneath::open`], on request).
//! Another process that renames directories meanwhile cannot break this: the kernel checks.

mod tree;
mod xattr;

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timestamps, Uid};
use rustix::io::Errno;

use crate::error::{Attempt, Error, Result};

/// What happens to symbolic links in the directory part of a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Follow {
    /// None is followed; meeting one is an error (ELOOP).
    No,
    /// They are followed; one that leads out of the root is an error (EXDEV).
    Within,
    /// They are followed as a chroot would: absolute ones from the root, `..` stops there.
    #[default]
    AsRoot,
}

/// What a special file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// A character device.
    Char(u32, u32),
    /// A block device.
    Block(u32, u32),
    /// A fifo.
    Fifo,
}

/// An open directory; see the module.
#[derive(Debug)]
pub struct Beneath {
    root: OwnedFd,
    path: PathBuf,
    follow: Follow,
}

/// What stat(2) tells of a file.
pub use rustix::fs::Stat;

impl Beneath {
    /// Opens a directory of ours as a root. Symbolic links in `path` itself are followed.
    pub fn open_root(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, path, flags, Mode::empty())
            .on_path("open the directory", path)?;
        Ok(Self { root, path: path.to_owned(), follow: Follow::default() })
    }

    /// The same root with another rule for symbolic links.
    pub fn following(mut self, follow: Follow) -> Self {
        self.follow = follow;
        self
    }

    /// The path it was opened by, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A second handle on the same root.
    pub fn try_clone(&self) -> Result<Self> {
        let root = self.root.try_clone().on_path("duplicate the handle of", &self.path)?;
        Ok(Self { root, path: self.path.clone(), follow: self.follow })
    }

    /// The directory `path` below as a root of its own.
    pub fn sub(&self, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = self.resolve(path, flags, Mode::empty()).on_path("open", self.shown(path))?;
        Ok(Self { root, path: self.shown(path), follow: self.follow })
    }

    /// Opens anything below with open(2)'s flags (close-on-exec is added). A symbolic link as the
    /// last part is followed under the same rule unless `NOFOLLOW` is among the flags.
    pub fn open(&self, path: impl AsRef<Path>, flags: OFlags, mode: u32) -> Result<OwnedFd> {
        let path = path.as_ref();
        self.resolve(path, flags | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::from_raw_mode(mode))
            .on_path("open", self.shown(path))
    }

    /// Makes a new file and opens it for writing; Exists if anything has that name.
    pub fn create(&self, path: impl AsRef<Path>, mode: u32) -> Result<OwnedFd> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.at(path.as_ref(), "create", |dir, name| {
            rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(mode))
        })
    }

    /// Makes a directory.
    pub fn mkdir(&self, path: impl AsRef<Path>, mode: u32) -> Result<()> {
        self.at(path.as_ref(), "make the directory", |dir, name| {
            rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(mode))
        })
    }

    /// Makes a symbolic link; `target` is stored as it is.
    pub fn symlink(&self, target: impl AsRef<Path>, path: impl AsRef<Path>) -> Result<()> {
        self.at(path.as_ref(), "make the symbolic link", |dir, name| {
            rustix::fs::symlinkat(target.as_ref(), dir, name)
        })
    }

    /// Gives the file `old` a second name. A symbolic link is linked itself.
    pub fn hard_link(&self, old: impl AsRef<Path>, new: impl AsRef<Path>) -> Result<()> {
        let old = old.as_ref();
        let (old_dir, old_name) = self.split(old).on_path("link", self.shown(old))?;
        self.at(new.as_ref(), "make the hard link", |dir, name| {
            rustix::fs::linkat(&old_dir, &old_name, dir, name, AtFlags::empty())
        })
    }

    /// Renames within the root, replacing a file of the new name.
    pub fn rename(&self, old: impl AsRef<Path>, new: impl AsRef<Path>) -> Result<()> {
        let old = old.as_ref();
        let (old_dir, old_name) = self.split(old).on_path("rename", self.shown(old))?;
        self.at(new.as_ref(), "rename to", |dir, name| {
            rustix::fs::renameat(&old_dir, &old_name, dir, name)
        })
    }

    /// Makes a device node or fifo.
    pub fn mknod(&self, path: impl AsRef<Path>, node: Node, mode: u32) -> Result<()> {
        let (kind, device) = match node {
            Node::Char(major, minor) => {
                (FileType::CharacterDevice, rustix::fs::makedev(major, minor))
            }
            Node::Block(major, minor) => (FileType::BlockDevice, rustix::fs::makedev(major, minor)),
            Node::Fifo => (FileType::Fifo, 0),
        };
        self.at(path.as_ref(), "make the node", |dir, name| {
            rustix::fs::mknodat(dir, name, kind, Mode::from_raw_mode(mode), device)
        })
    }

    /// Sets the owner, of a symbolic link itself.
    pub fn chown(&self, path: impl AsRef<Path>, uid: u32, gid: u32) -> Result<()> {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        self.at(path.as_ref(), "change the owner of", |dir, name| {
            rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        })
    }

    /// Sets the permission bits. Symbolic links have none: Invalid.
    pub fn chmod(&self, path: impl AsRef<Path>, mode: u32) -> Result<()> {
        self.at(path.as_ref(), "change the mode of", |dir, name| {
            // fchmodat(2) follows links and has no flags before Linux 6.6: O_PATH, and chmod by
            // the link in /proc, which reaches the file itself.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(dir, name, flags, Mode::empty())?;
            if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) == FileType::Symlink {
                return Err(Errno::LOOP);
            }
            rustix::fs::chmod(by_descriptor(&file), Mode::from_raw_mode(mode))
        })
    }

    /// Sets access and modification time, of a symbolic link itself.
    pub fn set_times(&self, path: impl AsRef<Path>, times: &Timestamps) -> Result<()> {
        self.at(path.as_ref(), "set the times of", |dir, name| {
            rustix::fs::utimensat(dir, name, times, AtFlags::SYMLINK_NOFOLLOW)
        })
    }

    /// What is there, a symbolic link itself; `None` if nothing is.
    pub fn stat(&self, path: impl AsRef<Path>) -> Result<Option<Stat>> {
        let path = path.as_ref();
        match self
            .at(path, "stat", |dir, name| rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW))
        {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where a symbolic link points, as stored.
    pub fn read_link(&self, path: impl AsRef<Path>) -> Result<PathBuf> {
        let target = self.at(path.as_ref(), "read the link", |dir, name| {
            rustix::fs::readlinkat(dir, name, Vec::new())
        })?;
        Ok(OsString::from_vec(target.into_bytes()).into())
    }

    /// Removes anything but a directory.
    pub fn unlink(&self, path: impl AsRef<Path>) -> Result<()> {
        self.at(path.as_ref(), "unlink", |dir, name| {
            rustix::fs::unlinkat(dir, name, AtFlags::empty())
        })
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, path: impl AsRef<Path>) -> Result<()> {
        self.at(path.as_ref(), "remove the directory", |dir, name| {
            rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
        })
    }

    /// Runs one call on the directory and the last name of a path.
    fn at<T>(
        &self,
        path: &Path,
        attempted: &'static str,
        call: impl FnOnce(BorrowedFd<'_>, &OsStr) -> rustix::io::Result<T>,
    ) -> Result<T> {
        self.split(path)
            .and_then(|(dir, name)| call(dir.as_fd(), &name))
            .on_path(attempted, self.shown(path))
    }

    /// The directory part, opened, and the last name. The root itself is its own `.`.
    fn split(&self, path: &Path) -> rustix::io::Result<(OwnedFd, OsString)> {
        let bytes = path.as_os_str().as_bytes();
        let trimmed = bytes.iter().rposition(|b| *b != b'/').map_or(&b""[..], |at| &bytes[..=at]);
        let (dir, name) = match trimmed.iter().rposition(|b| *b == b'/') {
            Some(at) => (&trimmed[..at], &trimmed[at + 1..]),
            None => (&b""[..], trimmed),
        };
        if name == b".." {
            return Err(Errno::INVAL);
        }
        let name = if name.is_empty() { OsStr::new(".") } else { OsStr::from_bytes(name) };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = self.resolve(Path::new(OsStr::from_bytes(dir)), flags, Mode::empty())?;
        Ok((dir, name.to_owned()))
    }

    fn resolve(&self, path: &Path, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
        let rule = match self.follow {
            Follow::No => ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
            Follow::Within => ResolveFlags::BENEATH,
            Follow::AsRoot => ResolveFlags::IN_ROOT,
        };
        let rule = rule | ResolveFlags::NO_MAGICLINKS;
        // BENEATH refuses a leading slash, but every path here is relative to the root.
        let bytes = path.as_os_str().as_bytes();
        let start = bytes.iter().position(|b| *b != b'/').unwrap_or(bytes.len());
        let relative = if start == bytes.len() { b"." } else { &bytes[start..] };
        // The kernel gives up with EAGAIN when a rename anywhere interferes with its check.
        for _ in 0..128 {
            match rustix::fs::openat2(&self.root, relative, flags, mode, rule) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    fn shown(&self, path: &Path) -> PathBuf {
        let mut shown = self.path.clone();
        shown.push(path.strip_prefix("/").unwrap_or(path));
        shown
    }
}

impl AsFd for Beneath {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// The path of an open file in /proc, for calls that take no descriptor.
fn by_descriptor(fd: impl AsFd) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// Whether an error says that a path led out of its root or through a forbidden link.
pub fn is_escape(error: &Error) -> bool {
    matches!(error.errno(), Some(libc::EXDEV | libc::ELOOP))
}
