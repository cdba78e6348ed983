//! mount_setattr(2): options of a whole tree of mounts in one call (Linux 5.12).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use super::Propagation;
use crate::error::{Attempt, Result};

/// What to change. Everything not named stays.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attributes<'fd> {
    /// Make it read-only (`Some(true)`) or writable.
    pub read_only: Option<bool>,
    /// Ignore set-user-id bits.
    pub nosuid: Option<bool>,
    /// Ignore device nodes.
    pub nodev: Option<bool>,
    /// Refuse to execute.
    pub noexec: Option<bool>,
    /// Refuse to follow symbolic links (Linux 5.14).
    pub nosymfollow: Option<bool>,
    /// Set the propagation.
    pub propagation: Option<Propagation>,
    /// Show the files with the ids of this user namespace. Only on a detached mount (open_tree)
    /// that was not mapped before, and not every file system can.
    pub user_namespace: Option<BorrowedFd<'fd>>,
}

/// `struct mount_attr` of linux/mount.h, version 0.
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

const RDONLY: u64 = 0x1;
const NOSUID: u64 = 0x2;
const NODEV: u64 = 0x4;
const NOEXEC: u64 = 0x8;
const IDMAP: u64 = 0x0010_0000;
const NOSYMFOLLOW: u64 = 0x0020_0000;

/// Changes the mount at `path` (relative to `dir`; empty: the mount `dir` itself is), and with
/// `recursive` all below it: all of them or none.
///
/// # Errors
/// Unimplemented before Linux 5.12; Invalid where a file system cannot be id-mapped.
pub fn set_attributes(
    dir: impl AsFd,
    path: impl AsRef<Path>,
    attributes: &Attributes<'_>,
    recursive: bool,
) -> Result<()> {
    let path = path.as_ref();
    let mut attr = MountAttr::default();
    for (wish, bit) in [
        (attributes.read_only, RDONLY),
        (attributes.nosuid, NOSUID),
        (attributes.nodev, NODEV),
        (attributes.noexec, NOEXEC),
        (attributes.nosymfollow, NOSYMFOLLOW),
    ] {
        match wish {
            Some(true) => attr.attr_set |= bit,
            Some(false) => attr.attr_clr |= bit,
            None => {}
        }
    }
    attr.propagation = match attributes.propagation {
        Some(Propagation::Private) => libc::MS_PRIVATE,
        Some(Propagation::Slave) => libc::MS_SLAVE,
        Some(Propagation::Shared) => libc::MS_SHARED,
        Some(Propagation::Unbindable) => libc::MS_UNBINDABLE,
        None => 0,
    };
    if let Some(namespace) = attributes.user_namespace {
        attr.attr_set |= IDMAP;
        attr.userns_fd = namespace.as_raw_fd() as u64;
    }
    let name = super::c_path(path)?;
    let mut flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: `name` is NUL-terminated, `attr` is a mount_attr of the size that is passed, and
    // both descriptors are borrowed for the call.
    #[allow(unsafe_code)]
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir.as_fd().as_raw_fd(),
            name.as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    let result = if answer == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) };
    result.on_path("set the attributes of the mount", path)
}
