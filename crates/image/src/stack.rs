//! Looks through a stack of layers as overlay would show it, without a mount.
//!
//! A name is looked up component by component in every layer that still counts, from the top down:
//! a whiteout or an opaque directory ends the search, a file hides all below it, directories merge.
//! Symbolic links are resolved with the top of the stack as their root.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::confined::{self, Name};

const MAX_LINKS: usize = 40;

/// Layers on top of each other.
pub(crate) struct Stack {
    top: Merged,
}

/// One directory as it is found in one or more layers, the uppermost first.
pub(crate) type Merged = Vec<Rc<OwnedFd>>;

/// What a name stands for.
pub(crate) enum Node {
    /// A directory: its uppermost part, and the names of all parts.
    Directory(Merged),
    /// Anything else, in the directory of the layer that has it.
    Other {
        /// The directory that it is in.
        directory: Rc<OwnedFd>,
        /// Its name there.
        name: Vec<u8>,
        /// Its inode.
        stat: Box<Stat>,
    },
}

impl Stack {
    /// Opens the layers, given from the bottom up as an image lists them.
    pub(crate) fn open<P: AsRef<Path>>(layers: &[P]) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |layer: &P| -> io::Result<Rc<OwnedFd>> {
            Ok(Rc::new(rustix::fs::open(layer.as_ref(), flags, Mode::empty())?))
        };
        Ok(Self { top: layers.iter().rev().map(open).collect::<io::Result<_>>()? })
    }

    /// Looks a name up without following any symbolic link.
    pub(crate) fn look_up(&self, name: &Name) -> io::Result<Option<Node>> {
        let mut at = self.top.clone();
        let mut components = name.components().peekable();
        while let Some(component) = components.next() {
            match child(&at, component)? {
                Some(Node::Directory(next)) => at = next,
                other if components.peek().is_none() => return Ok(other),
                _ => return Ok(None),
            }
        }
        Ok(Some(Node::Directory(at)))
    }

    /// Looks a path up as a process with this root would, following symbolic links.
    pub(crate) fn resolve(&self, path: &[u8]) -> io::Result<Option<Node>> {
        let parts = |path: &[u8]| -> Vec<Vec<u8>> {
            let plain = |c: &&[u8]| !matches!(*c, b"" | b".");
            path.split(|b| *b == b'/').filter(plain).map(<[u8]>::to_vec).collect()
        };
        let mut at = vec![self.top.clone()];
        let mut rest: VecDeque<Vec<u8>> = parts(path).into();
        let mut links = 0;
        while let Some(component) = rest.pop_front() {
            if component == b".." {
                if at.len() > 1 {
                    at.pop();
                }
                continue;
            }
            let here = at.last().unwrap_or(&self.top);
            match child(here, &component)? {
                None => return Ok(None),
                Some(Node::Directory(next)) => at.push(next),
                Some(Node::Other { directory, name, stat }) => {
                    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
                        links += 1;
                        if links > MAX_LINKS {
                            return Err(Errno::LOOP.into());
                        }
                        let target = rustix::fs::readlinkat(&*directory, &*name, Vec::new())?;
                        if target.as_bytes().first() == Some(&b'/') {
                            at.truncate(1);
                        }
                        for part in parts(target.as_bytes()).into_iter().rev() {
                            rest.push_front(part);
                        }
                    } else if rest.is_empty() {
                        return Ok(Some(Node::Other { directory, name, stat }));
                    } else {
                        return Ok(None);
                    }
                }
            }
        }
        Ok(at.pop().map(Node::Directory))
    }

    /// Reads a regular file, at most `limit` bytes of it. Nothing there, or something else than a
    /// file, is no file.
    pub(crate) fn read(&self, path: &[u8], limit: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(Node::Other { directory, name, stat }) = self.resolve(path)? else {
            return Ok(None);
        };
        // A device or fifo must not even be opened.
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = rustix::fs::openat(&*directory, &*name, flags, Mode::empty())?;
        let mut content = Vec::new();
        std::fs::File::from(fd).take(limit).read_to_end(&mut content)?;
        Ok(Some(content))
    }

    /// The names that the root of the stack shows.
    pub(crate) fn root_names(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut names = std::collections::BTreeSet::new();
        for layer in &self.top {
            names.extend(confined::names(layer)?);
        }
        let mut shown = Vec::new();
        for name in names {
            if child(&self.top, &name)?.is_some() {
                shown.push(name);
            }
        }
        Ok(shown)
    }
}

/// Looks up directories. Those that were found last are remembered, so that names which come in
/// order need one step each, however deep they are.
pub(crate) struct Finder<'a> {
    stack: &'a Stack,
    trail: VecDeque<(Name, Option<Merged>)>,
}

impl<'a> Finder<'a> {
    /// Each that is remembered holds a descriptor for each layer.
    const TRAIL: usize = 4;

    pub(crate) fn new(stack: &'a Stack) -> Self {
        Self { stack, trail: VecDeque::new() }
    }

    /// The parts of a directory, the uppermost first; none if there is no directory of that name.
    pub(crate) fn directory(&mut self, name: &Name) -> io::Result<Option<Merged>> {
        let (parent, last) = name.split();
        let known = self.trail.iter().find(|(known, _)| *known == parent);
        let within = match known {
            Some((_, parts)) => parts.clone(),
            None => parts(self.stack.look_up(&parent)?),
        };
        let found = match within {
            Some(within) => parts(child(&within, last)?),
            None => None,
        };
        self.trail.push_front((name.clone(), found.clone()));
        self.trail.truncate(Self::TRAIL);
        Ok(found)
    }
}

fn parts(node: Option<Node>) -> Option<Merged> {
    match node {
        Some(Node::Directory(parts)) => Some(parts),
        _ => None,
    }
}

fn child(at: &Merged, name: &[u8]) -> io::Result<Option<Node>> {
    let mut merged: Merged = Vec::new();
    for layer in at {
        let stat = match rustix::fs::statat(&**layer, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            stat => stat?,
        };
        if confined::is_whiteout(&stat) {
            break;
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            if merged.is_empty() {
                let (directory, name) = (Rc::clone(layer), name.to_vec());
                return Ok(Some(Node::Other { directory, name, stat: Box::new(stat) }));
            }
            break;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&**layer, name, flags, Mode::empty())?;
        let opaque = is_opaque(&fd)?;
        merged.push(Rc::new(fd));
        if opaque {
            break;
        }
    }
    Ok((!merged.is_empty()).then_some(Node::Directory(merged)))
}

/// Whether a directory hides what lower layers have in it.
pub(crate) fn is_opaque(fd: &OwnedFd) -> io::Result<bool> {
    let mut value = [0u8; 4];
    match rustix::fs::fgetxattr(fd, confined::OPAQUE, &mut value[..]) {
        Ok(length) => Ok(value[..length] == *b"y"),
        Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

impl Node {
    /// The path by which this process can reach the inode itself, as long as the node lives.
    pub(crate) fn proc_path(&self) -> Vec<u8> {
        match self {
            Self::Directory(parts) => {
                let fd = parts.first().map_or(-1, |fd| fd.as_raw_fd());
                format!("/proc/self/fd/{fd}/.").into_bytes()
            }
            Self::Other { directory, name, .. } => {
                let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
                path.extend_from_slice(name);
                path
            }
        }
    }
}
