//! Owner, mode, times and extended attributes: what an entry says about its inode, and how it gets
//! there.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid};
use rustix::io::Errno;

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
    xattrs: Vec<(String, Vec<u8>)>,
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
        let set = rustix::fs::fsetxattr(fd, name, value, rustix::fs::XattrFlags::empty());
        tolerate(set).at("set an extended attribute")?;
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
        tolerate(rustix::fs::lsetxattr(&*path, name, value, flags))
            .at("set an extended attribute")?;
    }
    rustix::fs::utimensat(dir, last, &times(inode.mtime), AtFlags::SYMLINK_NOFOLLOW)
        .at("set the times")
}

/// A file system, or a kind of file, without such attributes is no reason to refuse an image.
fn tolerate(set: std::result::Result<(), Errno>) -> std::result::Result<(), Errno> {
    match set {
        Err(Errno::NOTSUP | Errno::PERM) => Ok(()),
        other => other,
    }
}

pub(crate) fn inode<R: Read>(entry: &mut tar::Entry<'_, R>) -> Attempt<Inode> {
    let mut mtime = None;
    let mut xattrs = Vec::new();
    if let Some(extensions) = entry.pax_extensions().at("read its pax header")? {
        for extension in extensions {
            let extension = extension.at("read its pax header")?;
            match extension.key_bytes() {
                b"mtime" => mtime = parse_time(extension.value_bytes()),
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(("read it", invalid("pax sparse files are not supported")));
                }
                key => xattrs.extend(xattr(key, extension.value_bytes())),
            }
        }
    }
    let header = entry.header();
    let old = header.as_old();
    let mode = number(&old.mode, header.mode()).at("read its mode")?;
    let id = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX);
    let too_large = || ("read its owner", invalid("the id is larger than 32 bits"));
    let uid = id(number(&old.uid, header.uid()).at("read its owner")?).ok_or_else(too_large)?;
    let gid = id(number(&old.gid, header.gid()).at("read its group")?).ok_or_else(too_large)?;
    let seconds = header.mtime().unwrap_or(0);
    let whole = Timespec { tv_sec: i64::try_from(seconds).unwrap_or(0), tv_nsec: 0 };
    Ok(Inode {
        mode: Mode::from_raw_mode(mode & 0o7777),
        uid: Uid::from_raw(uid),
        gid: Gid::from_raw(gid),
        mtime: mtime.unwrap_or(whole),
        xattrs,
    })
}

/// An empty field of a header is zero; the reader of archives takes it for a mistake.
fn number<T: Default>(field: &[u8], read: io::Result<T>) -> io::Result<T> {
    match field.iter().all(|byte| matches!(byte, 0 | b' ')) {
        true => Ok(T::default()),
        false => read,
    }
}

/// The extended attributes that an image may set. Those of overlay would let a layer redirect
/// look-ups, and labels are the node's own business.
fn xattr(key: &[u8], value: &[u8]) -> Option<(String, Vec<u8>)> {
    let name = std::str::from_utf8(key.strip_prefix(b"SCHILY.xattr.")?).ok()?;
    let overlay = name.starts_with("trusted.overlay.") || name.starts_with("user.overlay.");
    let allowed = ["user.", "trusted.", "security.capability", "system.posix_acl_"]
        .iter()
        .any(|prefix| name.starts_with(prefix));
    (allowed && !overlay).then(|| (name.to_owned(), value.to_vec()))
}

/// Seconds with a fraction, as pax writes them.
fn parse_time(value: &[u8]) -> Option<Timespec> {
    let text = std::str::from_utf8(value).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let tv_sec: i64 = seconds.parse().ok()?;
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanoseconds: i64 = digits.parse().ok()?;
    if seconds.starts_with('-') && nanoseconds > 0 {
        return Some(Timespec { tv_sec: tv_sec - 1, tv_nsec: 1_000_000_000 - nanoseconds });
    }
    Some(Timespec { tv_sec, tv_nsec: nanoseconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_times_keep_their_fraction_before_and_after_1970() {
        let time = |text: &str| parse_time(text.as_bytes()).map(|t| (t.tv_sec, t.tv_nsec));
        assert_eq!(time("12.5"), Some((12, 500_000_000)));
        assert_eq!(time("12"), Some((12, 0)));
        assert_eq!(time("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time("x"), None);
    }

    #[test]
    fn overlay_attributes_of_a_layer_are_not_taken_over() {
        assert!(xattr(b"SCHILY.xattr.user.note", b"1").is_some());
        assert!(xattr(b"SCHILY.xattr.security.capability", b"1").is_some());
        for name in ["trusted.overlay.redirect", "user.overlay.opaque", "security.selinux"] {
            assert!(xattr(format!("SCHILY.xattr.{name}").as_bytes(), b"/").is_none(), "{name}");
        }
    }
}
