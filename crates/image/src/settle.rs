//! Completes a layer that leans on the layers below it.
//!
//! The result depends on them, so such a layer is kept under its chain id, not its diff id.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Uid};
use rustix::io::Errno;

use crate::apply::Applied;
use crate::confined::{self, Confined, Missing, Name};
use crate::error::{Error, Result};
use crate::inode;
use crate::stack::{self, Finder, Node, Stack};

/// Fills in what `applied` left open, with `below` given from the bottom up.
pub(crate) fn settle(layer: &Path, applied: &Applied, below: &[PathBuf]) -> Result<()> {
    let fault = |e| Error::file("complete the layer from those below it in", layer, e);
    let stack = Stack::open(below).map_err(fault)?;
    let mut confined = Confined::open(layer).map_err(fault)?;
    if applied.root_opaque {
        hide_everything(&confined, &stack).map_err(fault)?;
    }
    let mut heritage = Heritage { below: Finder::new(&stack), hidden: HashMap::new() };
    for (link, target) in &applied.links {
        bring_up(&mut confined, (&stack, &mut heritage), (link, target)).map_err(|source| {
            Error::Entry {
                entry: link.to_string(),
                attempted: "link it to a file of a lower layer",
                source,
            }
        })?;
    }
    let mut times = BTreeMap::new();
    // Below an opaque root there is nothing to inherit from.
    for name in applied.implied.iter().filter(|_| !applied.root_opaque) {
        heritage.inherit(&confined, name, &mut times).map_err(fault)?;
    }
    for (name, mtime) in times {
        let dir = confined.open_directly(&name).map_err(io::Error::from).map_err(fault)?;
        inode::set_directory_times(&dir, mtime).map_err(fault)?;
    }
    Ok(())
}

/// Overlay does not look for an opaque mark on the root, so each name below gets a whiteout.
fn hide_everything(confined: &Confined, below: &Stack) -> io::Result<()> {
    let top = confined.open_directly(&Name::default())?;
    for name in below.root_names()? {
        match confined::make_whiteout(&top, &name) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                if let Ok(fd) = confined::open_to_change(&top, &name) {
                    confined::make_opaque(&fd)?;
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// What implied directories inherit. What was found out about a directory is remembered for those in
/// it: names of a thousand components would otherwise be walked a thousand times over.
struct Heritage<'a> {
    below: Finder<'a>,
    /// Whether something above hides what is below, by the name of the directory that it is in.
    hidden: HashMap<Name, bool>,
}

impl Heritage<'_> {
    /// Gives an implied directory the owner, mode, xattrs and times of the one below.
    fn inherit(
        &mut self,
        confined: &Confined,
        name: &Name,
        times: &mut BTreeMap<Name, Timespec>,
    ) -> io::Result<()> {
        let dir = match confined.open_directly(name) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            dir => dir?,
        };
        // An opaque directory hides what is in it below, not what the directory itself is like.
        if self.hides(confined, name.parent_name())? {
            return Ok(());
        }
        let Some(parts) = self.below.directory(name)? else { return Ok(()) };
        let Some(source) = parts.first() else { return Ok(()) };
        let stat = rustix::fs::fstat(&**source)?;
        let target = confined::open_to_change(&dir, b"")?;
        copy_inode(source, &stat, &target)?;
        times.insert(name.clone(), modified(&stat));
        Ok(())
    }

    /// Whether a directory, or one above it, is opaque.
    fn hides(&mut self, confined: &Confined, directory: Name) -> io::Result<bool> {
        let mut unknown = Vec::new();
        let mut at = directory;
        let mut hides = loop {
            if at.is_root() {
                break false;
            }
            if let Some(known) = self.hidden.get(&at) {
                break *known;
            }
            let above = at.parent_name();
            unknown.push(std::mem::replace(&mut at, above));
        };
        for name in unknown.into_iter().rev() {
            if !hides {
                let fd = confined::open_to_change(&confined.open_directly(&name)?, b"")?;
                hides = stack::is_opaque(&fd)?;
            }
            self.hidden.insert(name, hides);
        }
        Ok(hides)
    }
}

fn modified(stat: &Stat) -> Timespec {
    Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0) }
}

/// Owner, mode, extended attributes; in this order, because chown clears capabilities.
fn copy_inode(source: &OwnedFd, stat: &Stat, target: &OwnedFd) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(target, Some(uid), Some(gid))?;
    rustix::fs::fchmod(target, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let mut list = vec![0u8; 64 * 1024];
    let length = match rustix::fs::flistxattr(source, &mut list[..]) {
        Err(Errno::NOTSUP) => 0,
        length => length?,
    };
    for name in list[..length].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.overlay.") || name == b"security.selinux" {
            continue;
        }
        let mut value = vec![0u8; 64 * 1024];
        let length = rustix::fs::fgetxattr(source, name, &mut value[..])?;
        rustix::fs::fsetxattr(target, name, &value[..length], rustix::fs::XattrFlags::empty())?;
    }
    Ok(())
}

/// Copies the target of a hard link up from below, and links to it.
fn bring_up(
    confined: &mut Confined,
    (below, heritage): (&Stack, &mut Heritage<'_>),
    (link, target): (&Name, &Name),
) -> io::Result<()> {
    let (target_parent, target_last) = target.split();
    let mut made = Vec::new();
    let mut report = |name| made.push(name);
    let directory = confined.directory(&target_parent, Missing::Make(&mut report))?;
    for name in &made {
        heritage.inherit(confined, name, &mut BTreeMap::new())?;
    }
    match rustix::fs::statat(&directory, target_last, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => {}
        Err(Errno::NOENT) => {
            let found = below.look_up(&directory.name.join(target_last))?;
            let Some(node) = found else { return Err(Errno::NOENT.into()) };
            copy_file(&node, &directory, target_last)?;
        }
        Err(error) => return Err(error.into()),
    }
    let (link_parent, link_last) = link.split();
    let place = confined.open_directly(&link_parent)?;
    confined.remove(&place, link_last)?;
    rustix::fs::linkat(&directory, target_last, &place, link_last, AtFlags::empty())?;
    Ok(())
}

fn copy_file(node: &Node, directory: &confined::Dir, name: &[u8]) -> io::Result<()> {
    let Node::Other { stat, .. } = node else {
        return Err(confined::invalid("a hard link to a directory"));
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(confined::invalid("a hard link to a special file of a lower layer"));
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let source = rustix::fs::open(&*node.proc_path(), flags, Mode::empty())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?;
    let (mut from, mut to) = (std::fs::File::from(source), std::fs::File::from(target));
    io::copy(&mut from, &mut to)?;
    let (from, to) = (OwnedFd::from(from), OwnedFd::from(to));
    copy_inode(&from, stat, &to)?;
    let mtime = modified(stat);
    let times = rustix::fs::Timestamps { last_access: mtime, last_modification: mtime };
    Ok(rustix::fs::futimens(&to, &times)?)
}
