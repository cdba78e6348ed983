//! Mounts without a place: copied, changed, and only then attached (Linux 5.2).

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags};

use crate::error::{Attempt, Result};

/// Copies the mount that `path` lies on, from `path` down, with all below it if `recursive`: a
/// bind mount that is nowhere yet. It goes when the descriptor is closed without [`attach`].
///
/// Between the two its attributes can be set without anybody seeing it half done: an id mapping
/// can be given only there (see [`super::set_attributes`]).
pub fn copy(path: impl AsRef<Path>, recursive: bool) -> Result<OwnedFd> {
    let path = path.as_ref();
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(CWD, path, flags).on_path("copy the mount", path)
}

/// Attaches a copied mount at `target`.
pub fn attach(mount: impl AsFd, target: impl AsRef<Path>) -> Result<()> {
    let target = target.as_ref();
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", CWD, target, flags).on_path("attach a mount on", target)
}
