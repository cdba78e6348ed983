//! The SELinux label of a volume.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use serde::Deserialize;

use crate::Done;
use crate::error::{Error, Result};

/// Where a label is kept.
const XATTR: &str = "security.selinux";

/// Directories of the system itself: with a container's label on them nothing else would work.
const NEVER: [&str; 10] =
    ["/", "/bin", "/boot", "/etc", "/home", "/root", "/run", "/tmp", "/usr", "/var"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    paths: Vec<PathBuf>,
    label: String,
}

/// Gives the paths, and everything below them, a label. No symbolic link is followed below a path:
/// whoever may write to a volume must not choose what of the node is relabelled. A file system
/// without labels is left as it is.
pub(crate) fn relabel(request: Request) -> Result<Done> {
    for path in &request.paths {
        let failed = |errno: Errno| Error::io(format!("relabel {}", path.display()), errno);
        let resolved = path.canonicalize();
        let resolved = resolved.map_err(|e| Error::io(format!("resolve {}", path.display()), e))?;
        if NEVER.iter().any(|never| resolved == std::path::Path::new(never)) {
            let value = path.display().to_string();
            let reason = "is a directory of the system and is not relabelled";
            return Err(Error::Refused { what: "volume", value, reason });
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let top = rustix::fs::openat(CWD, &resolved, flags, Mode::empty()).map_err(failed)?;
        let label = request.label.as_bytes();
        match set(top.as_fd(), None, label) {
            Err(Errno::NOTSUP) => continue,
            done => done.map_err(failed)?,
        }
        if resolved.is_dir() {
            below(top.as_fd(), OsStr::new("."), label).map_err(failed)?;
        }
    }
    Ok(Done {})
}

/// By the descriptor's own path, whose last part alone is a name: nobody can turn it elsewhere.
fn set(at: BorrowedFd<'_>, name: Option<&OsStr>, label: &[u8]) -> rustix::io::Result<()> {
    let own = PathBuf::from(format!("/proc/self/fd/{}", at.as_raw_fd()));
    match name {
        None => rustix::fs::setxattr(&own, XATTR, label, XattrFlags::empty()),
        Some(name) => rustix::fs::lsetxattr(own.join(name), XATTR, label, XattrFlags::empty()),
    }
}

fn below(parent: BorrowedFd<'_>, name: &OsStr, label: &[u8]) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        // It went, or is something else by now.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        opened => opened?,
    };
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        match set(directory.as_fd(), Some(name), label) {
            Err(Errno::NOENT | Errno::NOTSUP) => {}
            done => done?,
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let stat = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW);
                stat.map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode))
            }
            known => known,
        };
        if kind == FileType::Directory {
            below(directory.as_fd(), name, label)?;
        }
    }
    Ok(())
}
