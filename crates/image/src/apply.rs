//! Puts the entries of a layer's archive in place, in overlay's own form.
//!
//! A whiteout becomes a character device 0:0, an opaque directory an xattr, so the result can be a
//! lower layer as it is. Both speak of the layers *below*, never of their own layer, whatever the
//! order of the entries (OCI image specification, "Whiteouts").
//!
//! What a layer only implies is not guessed here but reported: directories without an entry, hard
//! links to files of lower layers, an opaque root. [`crate::settle`] deals with them once the layers
//! below are known.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, SeekFrom, Timespec};
use rustix::io::Errno;

use crate::archive::{Archive, Entry, Kind, Sparse};
use crate::confined::{self, Confined, Dir, Missing, Name, invalid};
use crate::error::{Error, Result};
use crate::inode::{At, Attempt, Inode, change, change_by_name, inode, set_directory_times, times};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE_MARK: &[u8] = b".wh..wh..opq";
/// Names that aufs kept for itself, such as `.wh..wh.plnk`.
const AUFS: &[u8] = b".wh..wh.";

const COPY_BUFFER: usize = 128 * 1024;
/// The names of half a million directories, 128 bytes each.
const NAMES: usize = 64 << 20;

/// What a layer leaves to be settled with the layers below it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    /// Whether the archive says what the top directory is like.
    pub(crate) root: bool,
    /// Whether the top directory hides everything below.
    pub(crate) root_opaque: bool,
    /// Directories that have entries below them but none of their own.
    pub(crate) implied: BTreeSet<Name>,
    /// Hard links, with targets that this layer does not have.
    pub(crate) links: Vec<(Name, Name)>,
}

impl Applied {
    /// Whether the layer is the same whatever is below it.
    pub(crate) fn stands_alone(&self) -> bool {
        self.implied.is_empty() && self.links.is_empty() && !self.root_opaque
    }
}

/// Applies an archive to an empty directory.
pub(crate) fn apply(archive: impl Read, into: &Path) -> Result<Applied> {
    apply_and_hide(archive, &[], into)
}

/// The same, with a list of names of the layers below that are to be hidden: some write that beside
/// an archive, and no whiteouts.
pub(crate) fn apply_and_hide(
    archive: impl Read,
    hidden: &[String],
    into: &Path,
) -> Result<Applied> {
    let confined = Confined::open(into).map_err(|e| Error::file("open", into, e))?;
    let mut layer = Layer {
        confined,
        applied: Applied::default(),
        times: HashMap::new(),
        buffer: Vec::new(),
        remembered: 0,
    };
    let mut archive = Archive::new(archive);
    let fault =
        |source| Error::Entry { entry: "(next)".to_owned(), attempted: "read its header", source };
    while let Some(entry) = archive.next().map_err(fault)? {
        layer.put(&entry, &mut archive).map_err(|(attempted, source)| Error::Entry {
            entry: String::from_utf8_lossy(&entry.name).into_owned(),
            attempted,
            source,
        })?;
    }
    for path in hidden {
        layer.hide(path.as_bytes()).map_err(|(attempted, source)| Error::Entry {
            entry: path.clone(),
            attempted,
            source,
        })?;
    }
    layer.finish().map_err(|e| Error::file("set the times in", into, e))
}

struct Layer {
    confined: Confined,
    applied: Applied,
    /// Directories get their times last: every entry put in them would change them again.
    times: HashMap<Name, Timespec>,
    buffer: Vec<u8>,
    /// The bytes of all names that are kept until the end.
    remembered: usize,
}

impl Layer {
    fn put(&mut self, entry: &Entry, content: &mut impl Read) -> Attempt<()> {
        let name = Name::clean(&entry.name).at("use its name")?;
        if name.is_root() {
            if entry.kind == Kind::Dir {
                self.applied.root = true;
                return self.change_directory(&name, &inode(entry)?);
            }
            return Err(("use its name", invalid("only a directory can be the root")));
        }
        let (parent, last) = name.split();
        if let Some(hidden) = last.strip_prefix(WHITEOUT) {
            return self.whiteout(&parent, last, hidden);
        }
        if entry.kind == Kind::Dir {
            return self.directory(&parent, last, &inode(entry)?);
        }
        let dir = self.parent(&parent)?;
        match entry.kind {
            Kind::File => self.file((entry, content), &dir, last),
            Kind::Link => self.hard_link(entry, &dir, last),
            Kind::Symlink => self.symlink(entry, &dir, last),
            Kind::Char => self.node(entry, (&dir, last), FileType::CharacterDevice),
            Kind::Block => self.node(entry, (&dir, last), FileType::BlockDevice),
            Kind::Fifo => self.node(entry, (&dir, last), FileType::Fifo),
            Kind::Dir => Ok(()),
        }
    }

    fn parent(&mut self, name: &Name) -> Attempt<Dir> {
        let (implied, remembered) = (&mut self.applied.implied, &mut self.remembered);
        let mut report = |made: Name| {
            *remembered += made.as_bytes().len();
            implied.insert(made);
        };
        let dir = self.confined.directory(name, Missing::Make(&mut report));
        self.remember(0)?;
        dir.at("open its directory")
    }

    /// Counts a name that is kept until the end: layers made to fill the memory are refused.
    fn remember(&mut self, length: usize) -> Attempt<()> {
        self.remembered += length;
        match self.remembered > NAMES {
            true => Err(("remember its name", invalid("directories and links of too many bytes"))),
            false => Ok(()),
        }
    }

    /// Hides a name by its path.
    fn hide(&mut self, path: &[u8]) -> Attempt<()> {
        let name = Name::clean(path).at("use its name")?;
        let (parent, hidden) = name.split();
        self.whiteout(&parent, hidden, hidden)
    }

    fn whiteout(&mut self, parent: &Name, last: &[u8], hidden: &[u8]) -> Attempt<()> {
        if last == OPAQUE_MARK {
            if parent.is_root() {
                self.applied.root_opaque = true;
                return Ok(());
            }
            let dir = self.parent(parent)?;
            let fd = confined::open_to_change(&dir, b"").at("open its directory")?;
            return confined::make_opaque(&fd).at("make its directory opaque");
        }
        if last.starts_with(AUFS) {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(("use its name", invalid("a whiteout must name a file")));
        }
        let dir = self.parent(parent)?;
        match confined::make_whiteout(&dir, hidden) {
            Err(Errno::EXIST) => {
                // This layer has the name itself; a file hides what is below anyway.
                let stat = rustix::fs::statat(&dir, hidden, AtFlags::SYMLINK_NOFOLLOW)
                    .at("look at what it hides")?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    return Ok(());
                }
                self.applied.implied.remove(&dir.name.join(hidden));
                let fd = confined::open_to_change(&dir, hidden).at("open what it hides")?;
                confined::make_opaque(&fd).at("make what it hides opaque")
            }
            made => made.at("make a whiteout"),
        }
    }

    fn directory(&mut self, parent: &Name, last: &[u8], inode: &Inode) -> Attempt<()> {
        let dir = self.parent(parent)?;
        let name = dir.name.join(last);
        match rustix::fs::mkdirat(&dir, last, Mode::RWXU) {
            Err(Errno::EXIST) => {
                let stat = rustix::fs::statat(&dir, last, AtFlags::SYMLINK_NOFOLLOW)
                    .at("look at what is there")?;
                if confined::is_whiteout(&stat) {
                    confined::replace_whiteout(&dir, last).at("replace a whiteout")?;
                } else if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    // The file was to hide whatever is below, so the directory does, too.
                    self.confined.remove(&dir, last).at("replace what is there")?;
                    rustix::fs::mkdirat(&dir, last, Mode::RWXU).at("make the directory")?;
                    let fd = confined::open_to_change(&dir, last).at("open the directory")?;
                    confined::make_opaque(&fd).at("make the directory opaque")?;
                }
            }
            made => made.at("make the directory")?,
        }
        self.applied.implied.remove(&name);
        self.change_directory(&name, inode)
    }

    fn change_directory(&mut self, name: &Name, inode: &Inode) -> Attempt<()> {
        let dir = self.confined.open_directly(name).at("open the directory")?;
        let fd = confined::open_to_change(&dir, b"").at("open the directory")?;
        change(&fd, inode)?;
        self.remember(name.as_bytes().len())?;
        self.times.insert(name.clone(), inode.mtime);
        Ok(())
    }

    fn file(
        &mut self,
        (entry, content): (&Entry, &mut impl Read),
        dir: &Dir,
        last: &[u8],
    ) -> Attempt<()> {
        let inode = inode(entry)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let fd = self
            .make(dir, last, || rustix::fs::openat(dir, last, flags, mode))
            .at("create the file")?;
        match &entry.sparse {
            Some(sparse) => self.copy_sparse((content, sparse), &fd)?,
            None => self.copy(content, &fd)?,
        }
        change(&fd, &inode)?;
        rustix::fs::futimens(&fd, &times(inode.mtime)).at("set the times")
    }

    /// Makes something that must not be there yet, replacing what an earlier entry left.
    fn make<T>(
        &mut self,
        dir: &Dir,
        last: &[u8],
        mut call: impl FnMut() -> std::result::Result<T, Errno>,
    ) -> io::Result<T> {
        match call() {
            Err(Errno::EXIST) => {
                self.confined.remove(dir, last)?;
                Ok(call()?)
            }
            made => Ok(made?),
        }
    }

    fn copy(&mut self, from: &mut impl Read, to: &OwnedFd) -> Attempt<()> {
        self.buffer.resize(COPY_BUFFER, 0);
        loop {
            let count = fill(from, &mut self.buffer).at("read the content")?;
            if count == 0 {
                return Ok(());
            }
            write_all(to, &self.buffer[..count]).at("write the content")?;
        }
    }

    /// Writes each part at its place; what is between them stays a hole.
    fn copy_sparse(
        &mut self,
        (from, sparse): (&mut impl Read, &Sparse),
        to: &OwnedFd,
    ) -> Attempt<()> {
        let mut end = 0;
        for (position, length) in &sparse.parts {
            let next = position.checked_add(*length).filter(|next| *next <= sparse.size);
            if *position < end || next.is_none() {
                return Err(("read its holes", invalid("its parts overlap or leave the file")));
            }
            end = next.unwrap_or(end);
            rustix::fs::seek(to, SeekFrom::Start(*position)).at("seek")?;
            self.copy(&mut (&mut *from).take(*length), to)?;
        }
        rustix::fs::ftruncate(to, sparse.size).at("set the length")
    }

    fn symlink(&mut self, entry: &Entry, dir: &Dir, last: &[u8]) -> Attempt<()> {
        let inode = inode(entry)?;
        let target = target(entry)?;
        self.make(dir, last, || rustix::fs::symlinkat(target, dir, last)).at("make the link")?;
        change_by_name(dir, last, &inode)
    }

    fn node(&mut self, entry: &Entry, (dir, last): (&Dir, &[u8]), kind: FileType) -> Attempt<()> {
        let inode = inode(entry)?;
        let (major, minor) = entry.device;
        let device = match kind {
            FileType::Fifo => 0,
            _ => rustix::fs::makedev(major, minor),
        };
        self.make(dir, last, || rustix::fs::mknodat(dir, last, kind, inode.mode, device))
            .at("make the node")?;
        change_by_name(dir, last, &inode)?;
        rustix::fs::chmodat(dir, last, inode.mode, AtFlags::empty()).at("set the mode")
    }

    fn hard_link(&mut self, entry: &Entry, dir: &Dir, last: &[u8]) -> Attempt<()> {
        let target = Name::clean(target(entry)?).at("use its target")?;
        self.remember(target.as_bytes().len())?;
        let (parent, file) = target.split();
        let found = match self.confined.directory(&parent, Missing::Fail) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.applied.links.push((dir.name.join(last), target));
                return Ok(());
            }
            Err(error) => return Err(("open the directory of its target", error)),
        };
        if found.name == dir.name && file == last {
            return Err(("link it", invalid("it is a link to itself")));
        }
        let link = || rustix::fs::linkat(&found, file, dir, last, AtFlags::empty());
        match self.make(dir, last, link) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.applied.links.push((dir.name.join(last), target));
                Ok(())
            }
            // The kernel's word for a link to a directory is "not permitted".
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(("link it", invalid("a hard link to a directory")))
            }
            made => made.at("link it"),
        }
    }

    /// Sets the times of directories; those that were replaced by something else are passed over.
    fn finish(mut self) -> io::Result<Applied> {
        for (name, mtime) in std::mem::take(&mut self.times) {
            match self.confined.open_directly(&name) {
                Ok(dir) => set_directory_times(&dir, mtime)?,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let confined = &self.confined;
        self.applied.implied.retain(|name| confined.open_directly(name).is_ok());
        Ok(self.applied)
    }
}

fn target(entry: &Entry) -> Attempt<&[u8]> {
    match entry.target.is_empty() {
        true => Err(("read its target", invalid("a link without a target"))),
        false => Ok(&entry.target),
    }
}

/// Reads until the buffer is full or the source ends.
pub(crate) fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn write_all(to: &OwnedFd, mut bytes: &[u8]) -> std::result::Result<(), Errno> {
    while !bytes.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(to, bytes))?;
        bytes = &bytes[written..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same entry, over and over.
    struct Again(Vec<u8>, usize);

    impl Read for Again {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = (&self.0[self.1..]).read(buffer)?;
            self.1 = (self.1 + count) % self.0.len();
            Ok(count)
        }
    }

    #[test]
    fn names_that_would_fill_the_memory_are_refused() {
        let mut builder = tar::Builder::new(Vec::new());
        let target = format!("{}/", "n".repeat(250)).repeat(15);
        builder.append_pax_extensions([("linkpath", target.as_bytes())]).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Link);
        header.set_mode(0o644);
        header.set_size(0);
        builder.append_data(&mut header, "link", io::empty()).unwrap();
        let temp = tempfile::tempdir().unwrap();
        // It would go on for ever: each link waits for a target in a lower layer.
        let error = apply(Again(builder.get_ref().clone(), 0), temp.path()).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Invalid, "{error}");
        assert!(error.to_string().contains("too many bytes"), "{error}");
    }
}
