//! Mounts without a place: copied, changed, and only then attached (Linux 5.2).

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
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

/// Copies the mount that `root` is, from `below` down: a path in it, in which an absolute symbolic
/// link and a `..` at the top lead to `root` and nothing leads out (openat2(2), Linux 5.6). Says
/// whether a directory is there.
pub fn copy_within(root: impl AsRef<Path>, below: impl AsRef<Path>) -> Result<(OwnedFd, bool)> {
    let (root, below) = (root.as_ref(), below.as_ref());
    let shown = || root.join(below);
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let top = rustix::fs::open(root, flags | OFlags::DIRECTORY, Mode::empty());
    let top = top.on_path("open", root)?;
    let confined = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = rustix::fs::openat2(&top, below, flags, Mode::empty(), confined);
    let found = found.on_path("open", shown())?;
    let kind = rustix::fs::fstat(&found).on_path("look at", shown())?.st_mode;
    let whole = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let copy = rustix::mount::open_tree(&found, "", whole).on_path("copy the mount", shown())?;
    Ok((copy, FileType::from_raw_mode(kind) == FileType::Directory))
}

/// Attaches a copied mount at `target`.
pub fn attach(mount: impl AsFd, target: impl AsRef<Path>) -> Result<()> {
    let target = target.as_ref();
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", CWD, target, flags).on_path("attach a mount on", target)
}
