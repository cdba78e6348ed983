//! Owner, mode, times and extended attributes: what an entry says about its inode, and how it gets
//! there.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::archive::Entry;
use crate::confined::{self, Dir, invalid};

pub(crate) type Attempt<T> = std::result::Result<T, (&'static str, io::Error)>;

/// Says what was attempted when a call failed.
pub(crate) trait At<T> {
    fn at(self, attempted: &'static str) -> Attempt<T>;
}

impl<T, E: Into<io::Error>> At<T> for std::result::Result<T, E> {
    fn at(self, attempted: &'static str) -> Attempt<T> {
        self.map_err(|error| (attempted, error.into()))
    }
}

/// What an entry says about its inode.
pub(crate) struct Inode {
    pub(crate) mode: Mode,
    uid: Uid,
    gid: Gid,
    pub(crate) mtime: Timespec,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Sets the times of a directory.
pub(crate) fn set_directory_times(dir: &Dir, mtime: Timespec) -> io::Result<()> {
    let fd = confined::open_to_change(dir, b"")?;
    Ok(rustix::fs::futimens(&fd, &times(mtime))?)
}

pub(crate) fn times(mtime: Timespec) -> Timestamps {
    Timestamps { last_access: mtime, last_modification: mtime }
}

/// Owner first, then mode, then capabilities: chown clears set-uid bits and capabilities.
pub(crate) fn change(fd: &OwnedFd, inode: &Inode) -> Attempt<()> {
    rustix::fs::fchown(fd, Some(inode.uid), Some(inode.gid)).at("set the owner")?;
    rustix::fs::fchmod(fd, inode.mode).at("set the mode")?;
    for (name, value) in &inode.xattrs {
        let set = rustix::fs::fsetxattr(fd, &**name, value, rustix::fs::XattrFlags::empty());
        tolerate(set, fd.as_fd()).at("set an extended attribute")?;
    }
    Ok(())
}

/// The same for what cannot be opened for writing without side effects: links, devices, fifos.
pub(crate) fn change_by_name(dir: &Dir, last: &[u8], inode: &Inode) -> Attempt<()> {
    rustix::fs::chownat(dir, last, Some(inode.uid), Some(inode.gid), AtFlags::SYMLINK_NOFOLLOW)
        .at("set the owner")?;
    let mut path = format!("/proc/self/fd/{}/", dir.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(last);
    for (name, value) in &inode.xattrs {
        let flags = rustix::fs::XattrFlags::empty();
        tolerate(rustix::fs::lsetxattr(&*path, &**name, value, flags), dir.as_fd())
            .at("set an extended attribute")?;
    }
    rustix::fs::utimensat(dir, last, &times(inode.mtime), AtFlags::SYMLINK_NOFOLLOW)
        .at("set the times")
}

/// A file system, or a kind of file, without such attributes is no reason to refuse an image.
fn tolerate(
    set: std::result::Result<(), Errno>,
    at: BorrowedFd<'_>,
) -> std::result::Result<(), Errno> {
    match set {
        Err(Errno::NOTSUP | Errno::PERM) => Ok(()),
        // More than an inode can hold is said in the same way as a full disk.
        Err(Errno::NOSPC) => match rustix::fs::fstatvfs(at) {
            Ok(room) if room.f_bavail > 0 && room.f_favail > 0 => Err(Errno::TOOBIG),
            _ => Err(Errno::NOSPC),
        },
        other => other,
    }
}

pub(crate) fn inode(entry: &Entry) -> Attempt<Inode> {
    let id = |id: u64| {
        let id = u32::try_from(id).ok().filter(|id| *id != u32::MAX);
        id.ok_or_else(|| ("read its owner", invalid("the id is larger than 32 bits")))
    };
    Ok(Inode {
        mode: Mode::from_raw_mode(entry.mode),
        uid: Uid::from_raw(id(entry.uid)?),
        gid: Gid::from_raw(id(entry.gid)?),
        mtime: entry.mtime,
        xattrs: entry.xattrs.iter().filter(|(name, _)| is_taken_over(name)).cloned().collect(),
    })
}

/// The extended attributes that an image may set. Those of overlay would let a layer redirect
/// look-ups, and labels are the node's own business.
fn is_taken_over(name: &[u8]) -> bool {
    let overlay = name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
    let allowed: [&[u8]; 4] = [b"user.", b"trusted.", b"security.capability", b"system.posix_acl_"];
    allowed.iter().any(|prefix| name.starts_with(prefix)) && !overlay && !name.contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlay_attributes_of_a_layer_are_not_taken_over() {
        assert!(is_taken_over(b"user.note") && is_taken_over(b"security.capability"));
        for name in ["trusted.overlay.redirect", "user.overlay.opaque", "security.selinux"] {
            assert!(!is_taken_over(name.as_bytes()), "{name}");
        }
    }
}
