//! A directory that no name in it can leave: where a layer's entries are put.
//!
//! Names come from archives made by strangers. Each is cleaned to a list of plain components, and
//! the directory that holds the last one is reached from a descriptor of the top, either in one
//! `openat2` that follows nothing, or component by component, where a symbolic link is resolved by
//! hand with the top as its root. No call below ever gives the kernel a path to resolve freely.
//!
//! Nobody else writes here while a layer is applied: it is a staging directory of our own.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// As many symbolic links as the kernel itself follows in one path.
const MAX_LINKS: usize = 40;

const PATH_ONLY: OFlags = OFlags::PATH.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// The xattr that hides what is below a directory. `trusted.` needs CAP_SYS_ADMIN to read or write,
/// so no container can forge it.
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";

/// A name from an archive: plain components, joined by `/`, without `.`, `..` or a leading slash.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Name(Vec<u8>);

impl Name {
    /// Cleans a name. A `..` is refused: archives have no honest use for it.
    pub(crate) fn clean(raw: &[u8]) -> io::Result<Self> {
        let mut clean = Vec::with_capacity(raw.len());
        for component in raw.split(|b| *b == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return Err(invalid("the name has a \"..\" component")),
                _ if component.contains(&0) => return Err(invalid("the name has a NUL byte")),
                _ => {}
            }
            if !clean.is_empty() {
                clean.push(b'/');
            }
            clean.extend_from_slice(component);
        }
        Ok(Self(clean))
    }

    pub(crate) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The directory part and the last component.
    pub(crate) fn split(&self) -> (Name, &[u8]) {
        match self.0.iter().rposition(|b| *b == b'/') {
            None => (Name::default(), &self.0),
            Some(at) => (Name(self.0[..at].to_vec()), &self.0[at + 1..]),
        }
    }

    pub(crate) fn join(&self, last: &[u8]) -> Name {
        let mut joined = self.0.clone();
        if !joined.is_empty() {
            joined.push(b'/');
        }
        joined.extend_from_slice(last);
        Name(joined)
    }

    pub(crate) fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|component| !component.is_empty())
    }

    /// The directory part.
    pub(crate) fn parent_name(&self) -> Name {
        self.split().0
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

/// A directory below the top, and its true name: links on the way to it are resolved in it.
#[derive(Clone)]
pub(crate) struct Dir {
    fd: Rc<OwnedFd>,
    pub(crate) name: Name,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The top directory.
pub(crate) struct Confined {
    top: Dir,
    last: Option<(Name, Dir)>,
}

/// What to do on the way to a directory that is not there.
pub(crate) enum Missing<'a> {
    /// Say so.
    Fail,
    /// Make it, and report its name.
    Make(&'a mut dyn FnMut(Name)),
}

impl Confined {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = Rc::new(rustix::fs::open(path, flags, Mode::empty())?);
        Ok(Self { top: Dir { fd, name: Name::default() }, last: None })
    }

    /// Opens the directory of that name, making what is missing if asked to.
    pub(crate) fn directory(&mut self, name: &Name, missing: Missing<'_>) -> io::Result<Dir> {
        if name.is_root() {
            return Ok(self.top.clone());
        }
        if let Some((last, dir)) = &self.last
            && last == name
        {
            return Ok(dir.clone());
        }
        let dir = match self.open_directly(name) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => match (self.open_directly(&name.parent_name()), missing) {
                // Only the last one is missing: a deep name is not walked for it.
                (Ok(parent), Missing::Make(report)) => {
                    let (_, last) = name.split();
                    let fd = Rc::new(make_directory(&parent, last)?);
                    report(name.clone());
                    Dir { fd, name: name.clone() }
                }
                (_, missing) => self.walk(name, missing)?,
            },
            Err(Errno::LOOP | Errno::NOTDIR) => self.walk(name, missing)?,
            Err(error) => return Err(error.into()),
        };
        self.last = Some((name.clone(), dir.clone()));
        Ok(dir)
    }

    /// Opens the directory of a true name, following nothing.
    pub(crate) fn open_directly(&self, name: &Name) -> Result<Dir, Errno> {
        if name.is_root() {
            return Ok(self.top.clone());
        }
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        let flags = PATH_ONLY | OFlags::DIRECTORY;
        let fd = rustix::fs::openat2(&self.top, name.as_bytes(), flags, Mode::empty(), resolve)?;
        Ok(Dir { fd: Rc::new(fd), name: name.clone() })
    }

    /// To be called when a directory or link was replaced: the last directory may be gone.
    pub(crate) fn forget(&mut self) {
        self.last = None;
    }

    fn walk(&self, name: &Name, mut missing: Missing<'_>) -> io::Result<Dir> {
        let mut at = vec![self.top.clone()];
        let mut rest: VecDeque<Vec<u8>> = name.components().map(<[u8]>::to_vec).collect();
        let mut links = 0;
        while let Some(component) = rest.pop_front() {
            if component == b".." {
                // The parent of the root is the root, as in a chroot.
                if at.len() > 1 {
                    at.pop();
                }
                continue;
            }
            let here = at.last().unwrap_or(&self.top);
            match self.step(here, &component, &mut missing)? {
                Step::Into(dir) => at.push(dir),
                Step::Link(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP.into());
                    }
                    if target.first() == Some(&b'/') {
                        at.truncate(1);
                    }
                    let parts = target.split(|b| *b == b'/').filter(|c| !matches!(*c, b"" | b"."));
                    for part in parts.rev() {
                        rest.push_front(part.to_vec());
                    }
                }
            }
        }
        Ok(at.pop().unwrap_or_else(|| self.top.clone()))
    }

    fn step(&self, here: &Dir, name: &[u8], missing: &mut Missing<'_>) -> io::Result<Step> {
        let full = here.name.join(name);
        let fd = match rustix::fs::openat(here, name, PATH_ONLY, Mode::empty()) {
            Err(Errno::NOENT) => match missing {
                Missing::Fail => return Err(Errno::NOENT.into()),
                Missing::Make(report) => {
                    let fd = make_directory(here, name)?;
                    report(full.clone());
                    fd
                }
            },
            opened => opened?,
        };
        let stat = rustix::fs::fstat(&fd)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Ok(Step::Into(Dir { fd: Rc::new(fd), name: full })),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&fd, "", Vec::new())?;
                Ok(Step::Link(target.into_bytes()))
            }
            _ if is_whiteout(&stat) && matches!(missing, Missing::Make(_)) => {
                let fd = replace_whiteout(here, name)?;
                Ok(Step::Into(Dir { fd: Rc::new(fd), name: full }))
            }
            _ => Err(Errno::NOTDIR.into()),
        }
    }

    /// Removes whatever has this name, with everything below it.
    pub(crate) fn remove(&mut self, dir: &Dir, name: &[u8]) -> io::Result<()> {
        self.forget();
        remove_tree(dir.as_fd(), name)
    }
}

enum Step {
    Into(Dir),
    Link(Vec<u8>),
}

fn make_directory(at: &Dir, name: &[u8]) -> io::Result<OwnedFd> {
    rustix::fs::mkdirat(at, name, Mode::from_raw_mode(0o755))?;
    // The process's umask must not decide what an image looks like.
    let fd = open_to_change(at, name)?;
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o755))?;
    rustix::fs::fchown(&fd, Some(rustix::fs::Uid::ROOT), Some(rustix::fs::Gid::ROOT))?;
    Ok(rustix::fs::openat(at, name, PATH_ONLY | OFlags::DIRECTORY, Mode::empty())?)
}

/// Turns a whiteout of this very layer into a directory that still hides what is below.
pub(crate) fn replace_whiteout(at: &Dir, name: &[u8]) -> io::Result<OwnedFd> {
    rustix::fs::unlinkat(at, name, AtFlags::empty())?;
    let fd = make_directory(at, name)?;
    make_opaque(&open_to_change(at, name)?)?;
    Ok(fd)
}

/// Opens a directory so that its metadata can be changed.
pub(crate) fn open_to_change(at: &Dir, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let name = if name.is_empty() { b"." } else { name };
    Ok(rustix::fs::openat(at, name, flags, Mode::empty())?)
}

/// Hides everything that lower layers have in this directory.
pub(crate) fn make_opaque(directory: &OwnedFd) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(directory, OPAQUE, b"y", rustix::fs::XattrFlags::empty())?)
}

/// Whether this is overlay's mark for "nothing here, whatever is below".
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Makes overlay's mark for "nothing here".
pub(crate) fn make_whiteout(at: &Dir, name: &[u8]) -> Result<(), Errno> {
    rustix::fs::mknodat(at, name, FileType::CharacterDevice, Mode::empty(), 0)
}

/// Removes a file or a tree without following anything; absent is well.
pub(crate) fn remove_tree(at: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    match rustix::fs::unlinkat(at, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // One descriptor per level would run out in a tree made to be deep, so deep trees are moved up:
    // each directory met goes beside its parent before it is emptied.
    let top = rustix::fs::openat(at, name, flags, Mode::empty())?;
    loop {
        let nested = empty_flat(&top)?;
        if !nested {
            break;
        }
    }
    match rustix::fs::unlinkat(at, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Unlinks the files of a directory and lifts the children of its directories into it. Says whether
/// there may be more to do.
fn empty_flat(top: &OwnedFd) -> io::Result<bool> {
    let mut more = false;
    for name in names(top)? {
        match rustix::fs::unlinkat(top, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::ISDIR) => {}
            Err(error) => return Err(error.into()),
        }
        match rustix::fs::unlinkat(top, &name, AtFlags::REMOVEDIR) {
            Ok(()) => continue,
            Err(Errno::NOTEMPTY) => {}
            Err(error) => return Err(error.into()),
        }
        lift(top, &name)?;
        more = true;
    }
    Ok(more)
}

fn lift(top: &OwnedFd, name: &[u8]) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(top, name, flags, Mode::empty())?;
    for child in names(&directory)? {
        match rustix::fs::unlinkat(&directory, &child, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::ISDIR) => {}
            Err(error) => return Err(error.into()),
        }
        if rustix::fs::unlinkat(&directory, &child, AtFlags::REMOVEDIR).is_ok() {
            continue;
        }
        move_up(&directory, &child, top)?;
    }
    rustix::fs::unlinkat(top, name, AtFlags::REMOVEDIR)?;
    Ok(())
}

/// Moves a directory into `top` under a name that is free there.
fn move_up(from: &OwnedFd, name: &[u8], top: &OwnedFd) -> io::Result<()> {
    let inode = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?.st_ino;
    for attempt in 0..u32::MAX {
        let free = format!(".lifted-{inode:x}-{attempt:x}");
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(from, name, top, free.as_str(), flags) {
            Err(Errno::EXIST) => continue,
            moved => return Ok(moved?),
        }
    }
    Err(Errno::EXIST.into())
}

/// The names in a directory, read anew from its beginning.
pub(crate) fn names(directory: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

pub(crate) fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn name(text: &str) -> Name {
        Name::clean(text.as_bytes()).unwrap()
    }

    #[test]
    fn names_are_cleaned_and_dotdot_is_refused() {
        assert_eq!(name("/./a//b/./c/").as_bytes(), b"a/b/c");
        assert!(name("./").is_root());
        for bad in ["..", "a/../b", "/..", "../x"] {
            assert!(Name::clean(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(Name::clean(b"a\0b").is_err());
        assert_eq!(name("a/b").split(), (name("a"), &b"b"[..]));
    }

    #[test]
    fn links_are_resolved_inside() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("root");
        std::fs::create_dir_all(root.join("real/deep")).unwrap();
        std::fs::create_dir(temp.path().join("outside")).unwrap();
        symlink("/real", root.join("absolute")).unwrap();
        symlink("../../../../real", root.join("climbing")).unwrap();
        symlink(temp.path().join("outside"), root.join("escape")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let mut confined = Confined::open(&root).unwrap();
        let mut open = |text: &str| confined.directory(&name(text), Missing::Fail);
        assert_eq!(open("absolute/deep").unwrap().name, name("real/deep"));
        assert_eq!(open("climbing/deep").unwrap().name, name("real/deep"));
        assert_eq!(open("escape").err().unwrap().kind(), io::ErrorKind::NotFound);
        assert!(open("loop/x").is_err());
        let mut made = Vec::new();
        let mut report = |name| made.push(name);
        confined.directory(&name("escape/new"), Missing::Make(&mut report)).unwrap();
        assert!(!temp.path().join("outside/new").exists());
        let inside = name(&temp.path().join("outside/new").to_string_lossy());
        assert_eq!(made.last(), Some(&inside));
    }

    #[test]
    fn a_tree_deeper_than_the_descriptor_limit_is_removed() {
        let temp = tempfile::tempdir().unwrap();
        let top = Confined::open(temp.path()).unwrap();
        let mut at = top.top.clone();
        for _ in 0..1100 {
            rustix::fs::mkdirat(&at, "d", Mode::from_raw_mode(0o755)).unwrap();
            let fd = rustix::fs::openat(&at, "d", PATH_ONLY, Mode::empty()).unwrap();
            at = Dir { fd: Rc::new(fd), name: Name::default() };
        }
        remove_tree(top.top.as_fd(), b"d").unwrap();
        assert!(!temp.path().join("d").exists());
    }
}
