//! Mounting and unmounting (mount(2), umount(2), mount_setattr(2)).
//!
//! Nothing here follows a symbolic link as the last part of an unmount's target. A call on a path
//! that a pod or a volume supplies may block for ever: not for a thread of the daemon.

mod attributes;
mod options;
mod overlay;
mod tree;

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::error::{Attempt, Error, Result};
use crate::mountinfo::Table;

pub use crate::mountinfo::Propagation;
pub use attributes::{Attributes, set_attributes};
pub use options::{Options, mount_as};
pub use overlay::Overlay;
/// Flags of mount(2).
pub use rustix::mount::MountFlags as Flags;
pub use tree::{attach, copy, copy_within};

/// Mounts a file system of type `kind` on `target`; `data` is its own option string.
pub fn mount(
    source: impl AsRef<Path>,
    target: impl AsRef<Path>,
    kind: &str,
    flags: Flags,
    data: &str,
) -> Result<()> {
    let target = target.as_ref();
    let data = CString::new(data).map_err(|_| Error::Argument {
        what: "mount options",
        value: data.to_owned(),
        reason: "hold a NUL byte",
    })?;
    let data = (!data.is_empty()).then_some(data);
    rustix::mount::mount(source.as_ref(), target, kind, flags, data.as_deref())
        .on_thing("mount", format!("{kind} on {}", target.display()))
}

/// Binds `source` on `target`: that mount only, not what is mounted below it.
pub fn bind(source: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<()> {
    let (source, target) = (source.as_ref(), target.as_ref());
    rustix::mount::mount_bind(source, target)
        .on_thing("bind", format!("{} on {}", source.display(), target.display()))
}

/// Binds `source` on `target` with all that is mounted below it.
pub fn bind_recursive(source: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<()> {
    let (source, target) = (source.as_ref(), target.as_ref());
    rustix::mount::mount_bind_recursive(source, target)
        .on_thing("bind", format!("{} on {}, recursively", source.display(), target.display()))
}

/// Changes the options of one mount and of its file system; `data` as in [`mount`].
pub fn remount(target: impl AsRef<Path>, flags: Flags, data: &str) -> Result<()> {
    let target = target.as_ref();
    rustix::mount::mount_remount(target, flags, data).on_path("remount", target)
}

/// Sets the flags of one bind mount, leaving its file system alone. All flags are replaced: in a
/// user namespace the locked ones must be named again, or it fails with Denied.
pub fn remount_bind(target: impl AsRef<Path>, flags: Flags) -> Result<()> {
    let target = target.as_ref();
    rustix::mount::mount_remount(target, flags | Flags::BIND, "")
        .on_path("remount the bind mount", target)
}

/// Moves a mount to another place. Invalid if the mount it is on is shared.
pub fn move_to(source: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<()> {
    let (source, target) = (source.as_ref(), target.as_ref());
    rustix::mount::mount_move(source, target)
        .on_thing("move the mount", format!("{} to {}", source.display(), target.display()))
}

/// Sets how mounts travel at one mount, or with `recursive` at all below it as well.
pub fn set_propagation(
    target: impl AsRef<Path>,
    propagation: Propagation,
    recursive: bool,
) -> Result<()> {
    use rustix::mount::MountPropagationFlags as P;
    let target = target.as_ref();
    let mut flags = match propagation {
        Propagation::Private => P::PRIVATE,
        Propagation::Slave => P::DOWNSTREAM,
        Propagation::Shared => P::SHARED,
        Propagation::Unbindable => P::UNBINDABLE,
    };
    if recursive {
        flags |= P::REC;
    }
    rustix::mount::mount_change(target, flags).on_path("set the propagation of", target)
}

/// Unmounts the topmost mount at `target`. Busy while somebody uses it.
pub fn unmount(target: impl AsRef<Path>) -> Result<()> {
    let target = target.as_ref();
    rustix::mount::unmount(target, UnmountFlags::NOFOLLOW).on_path("unmount", target)
}

/// Detaches the topmost mount at `target` with all below it: it vanishes now, and the file system
/// goes when its last user does.
pub fn detach(target: impl AsRef<Path>) -> Result<()> {
    let target = target.as_ref();
    rustix::mount::unmount(target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
        .on_path("detach", target)
}

/// Whether something is mounted exactly at `target`, which is not followed if it is a symbolic link
/// (statx(2), Linux 5.8). The file system there is not asked. Absent is no mount point.
pub fn is_mounted(target: impl AsRef<Path>) -> Result<bool> {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    let target = target.as_ref();
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    match statx(CWD, target, flags, StatxFlags::empty()) {
        Ok(stat) => Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(errno) => Err(Error::path("look for a mount at", target, errno)),
    }
}

/// Detaches everything mounted exactly at `target`, layer by layer. Nothing there is fine.
pub fn unmount_all(target: impl AsRef<Path>) -> Result<()> {
    let target = target.as_ref();
    // Far above any real stack; a bound in case another process keeps mounting.
    for _ in 0..1000 {
        match rustix::mount::unmount(target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH) {
            Ok(()) => {}
            // EINVAL: not a mount point.
            Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(errno) => return Err(Error::path("detach", target, errno)),
        }
    }
    Err(Error::path("detach", target, Errno::BUSY))
}

/// Detaches everything mounted at or below `directory`, the deepest first. Returns how many mounts
/// went. The path must be absolute and without symbolic links, as in mountinfo.
pub fn unmount_below(directory: impl AsRef<Path>) -> Result<usize> {
    let directory = directory.as_ref();
    let mut gone = 0;
    // Again until none is found: mounts that others covered, or that came meanwhile.
    for _ in 0..100 {
        let table = Table::own()?;
        let mounts = table.below(directory);
        if mounts.is_empty() {
            return Ok(gone);
        }
        for mount in mounts {
            match detach(&mount.point) {
                Ok(()) => gone += 1,
                // Gone with one above it, or covered: the next look at the table decides.
                Err(Error::Call { source, .. })
                    if matches!(source.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Err(Error::path("detach everything below", directory, Errno::BUSY))
}

pub(crate) fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::Argument {
        what: "path",
        value: path.display().to_string(),
        reason: "holds a NUL byte",
    })
}
