//! A checkpoint, read again: who it is of, and the parts that a container is made of. It is an archive,
//! or what an archive holds in a layer of an image.
//!
//! What it says is a stranger's word. Nothing of it is put below a name that it gives: each part has
//! a place of its own, flat, and no more is written than the archive itself is long.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tar::{Archive, Entry, EntryType};

use crate::changes::{DELETED, DIFF};
use crate::error::{Error, Result};

const CONFIG: &str = "config.dump";
const SPEC: &str = "spec.dump";
/// Where CRIU's images are, in an archive and where it is unpacked.
const IMAGES: &str = "checkpoint";
/// The largest of those documents; of a spec some hundred KiB have been seen.
const DOCUMENT: u64 = 1 << 20;
/// The largest list of what is gone: names of some hundred thousand files.
const LIST: u64 = 16 << 20;

/// What is read.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum From {
    /// The path of an archive.
    Archive(PathBuf),
    /// The directory of a layer of the image store, which nobody else writes to.
    Layer(PathBuf),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Peek {
    from: From,
}

#[derive(Serialize)]
pub(crate) struct Seen {
    /// Its `config.dump`.
    config: Value,
    /// Its `spec.dump`.
    spec: Value,
}

/// Reads who a checkpoint is of.
pub(crate) fn peek(request: Peek) -> Result<Seen> {
    let (mut config, mut spec) = (None, None);
    each(&request.from, |at, part, content| {
        let into = match part {
            Part::Config => &mut config,
            Part::Spec => &mut spec,
            _ => return Ok(()),
        };
        let text = at.bounded(content, DOCUMENT)?;
        let read = serde_json::from_slice(&text);
        *into = Some(read.map_err(|_| at.refused("has a document that is no JSON"))?);
        Ok(())
    })?;
    match (config, spec) {
        (Some(config), Some(spec)) => Ok(Seen { config, spec }),
        _ => {
            let reason = "is no checkpoint: it has no config.dump and spec.dump";
            Err(At(request.from.path()).refused(reason))
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    from: From,
    /// The directory that the parts are put in, a new one: `checkpoint/`, `spec.dump`,
    /// `rootfs-diff.tar`.
    into: PathBuf,
    /// The pod's: CRIU sets the name that its image has, in the namespace that the pod shares.
    hostname: String,
}

#[derive(Serialize)]
pub(crate) struct Unpacked {
    /// Paths of the container that are gone.
    deleted: BTreeSet<String>,
}

/// Unpacks what a container is made of.
pub(crate) fn unpack(request: Request) -> Result<Unpacked> {
    let mut deleted = BTreeSet::new();
    let images = request.into.join(IMAGES);
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&images);
    made.map_err(|e| Error::io(format!("make {}", images.display()), e))?;
    each(&request.from, |at, part, content| match part {
        Part::Config => Ok(()),
        Part::Deleted => {
            let read = serde_json::from_slice(&at.bounded(content, LIST)?);
            deleted = read.map_err(|_| at.refused("has a deleted.files that is no list"))?;
            Ok(())
        }
        Part::Spec => write(&at.bounded(content, DOCUMENT)?, &request.into.join(SPEC)),
        Part::Changes => at.put(content, &request.into.join(DIFF)),
        Part::Image(name) if is_uts(&name) => {
            let named = uts(&at.bounded(content, DOCUMENT)?, &request.hostname);
            let named = named.ok_or_else(|| at.refused("has a utsns image that is none"))?;
            write(&named, &images.join(name))
        }
        Part::Image(name) => at.put(content, &images.join(name)),
    })?;
    let changes = request.into.join(DIFF);
    if !changes.exists() {
        // A container that has changed nothing may be without.
        write(&[], &changes)?;
    }
    Ok(Unpacked { deleted })
}

/// What a checkpoint is made of.
enum Part {
    Config,
    Spec,
    Deleted,
    Changes,
    /// One of CRIU's images, by its name.
    Image(PathBuf),
}

impl Part {
    /// What has this name, if it is of use.
    fn of(name: &Path) -> Option<Self> {
        match name.to_str() {
            Some(CONFIG) => return Some(Self::Config),
            Some(SPEC) => return Some(Self::Spec),
            Some(DELETED) => return Some(Self::Deleted),
            Some(DIFF) => return Some(Self::Changes),
            _ => {}
        }
        let file = name.strip_prefix(IMAGES).ok()?;
        (file.components().count() == 1).then(|| Self::Image(file.to_owned()))
    }
}

/// What a part holds.
enum Content<'a> {
    /// An entry of an archive, of this many bytes.
    Entry(&'a mut dyn Read, u64),
    /// A file of a layer.
    File(&'a Path),
}

impl From {
    fn path(&self) -> &Path {
        match self {
            Self::Archive(path) | Self::Layer(path) => path,
        }
    }
}

/// Goes through the parts of a checkpoint.
fn each(from: &From, take: impl FnMut(&At<'_>, Part, Content<'_>) -> Result<()>) -> Result<()> {
    match from {
        From::Archive(path) => each_entry(&At(path), take),
        From::Layer(path) => each_file(&At(path), take),
    }
}

fn each_entry(
    at: &At<'_>,
    mut take: impl FnMut(&At<'_>, Part, Content<'_>) -> Result<()>,
) -> Result<()> {
    let (file, mut left) = at.open()?;
    let mut archive = Archive::new(file);
    for entry in archive.entries_with_seek().map_err(|e| at.failed(e))? {
        let mut entry = entry.map_err(|e| at.no_tar(e))?;
        let kind = entry.header().entry_type();
        let Some(part) = Part::of(&at.name(&entry)?).filter(|_| kind != EntryType::Directory)
        else {
            continue;
        };
        // A link would lead out, and what has holes may be of any length.
        if !matches!(kind, EntryType::Regular | EntryType::Continuous) {
            return Err(at.refused(NO_FILE));
        }
        let size = entry.size();
        left = left.checked_sub(size).ok_or_else(|| at.refused(CUT))?;
        take(at, part, Content::Entry(&mut entry, size))?;
    }
    Ok(())
}

fn each_file(
    at: &At<'_>,
    mut take: impl FnMut(&At<'_>, Part, Content<'_>) -> Result<()>,
) -> Result<()> {
    let mut names: Vec<PathBuf> = [CONFIG, SPEC, DELETED, DIFF].map(PathBuf::from).into();
    let images = at.0.join(IMAGES);
    if images.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
        for entry in std::fs::read_dir(&images).map_err(|e| at.failed(e))? {
            names.push(Path::new(IMAGES).join(entry.map_err(|e| at.failed(e))?.file_name()));
        }
    }
    for name in names {
        let path = at.0.join(&name);
        match path.symlink_metadata() {
            Ok(meta) if meta.is_file() => {}
            Ok(meta) if meta.is_dir() => continue,
            Ok(_) => return Err(at.refused(NO_FILE)),
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => continue,
            Err(why) => return Err(at.failed(why)),
        }
        if let Some(part) = Part::of(&name) {
            take(at, part, Content::File(&path))?;
        }
    }
    Ok(())
}

const NO_FILE: &str = "has a part that is no plain file";
const CUT: &str = "is cut off: it has entries that are longer than it is itself";

/// Writes a file; the last one of a name stays.
fn write(content: &[u8], path: &Path) -> Result<()> {
    copy(&mut &content[..], path).map(drop)
}

fn copy(from: &mut dyn Read, path: &Path) -> Result<u64> {
    let failed = |e| Error::io(format!("write {}", path.display()), e);
    let mut options = File::options();
    let to = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    std::io::copy(from, &mut to.map_err(failed)?).map_err(failed)
}

/// A checkpoint, for what is said of it.
struct At<'a>(&'a Path);

impl At<'_> {
    /// Opens an archive that nobody but root can have written, and says how long it is.
    fn open(&self) -> Result<(File, u64)> {
        let mut options = File::options();
        // A fifo in a file's place must not be waited for.
        options.read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
        let file = options.open(self.0).map_err(|e| self.failed(e))?;
        let meta = file.metadata().map_err(|e| self.failed(e))?;
        if !meta.is_file() {
            return Err(self.refused("is no file"));
        }
        if meta.uid() != 0 || meta.mode() & 0o022 != 0 {
            return Err(self.refused(
                "is not root's alone to write, and what is restored runs with whatever it says: \
                 look where it comes from, then chown it to root and take write access from others",
            ));
        }
        Ok((file, meta.len()))
    }

    fn failed(&self, why: std::io::Error) -> Error {
        Error::io(format!("read the checkpoint {}", self.0.display()), why)
    }

    /// A header that cannot be read is the archive's fault, unless the disk's.
    fn no_tar(&self, why: std::io::Error) -> Error {
        match why.raw_os_error() {
            Some(_) => self.failed(why),
            None => self.refused("is no checkpoint: it is no uncompressed tar, or is cut off"),
        }
    }

    fn refused(&self, reason: &'static str) -> Error {
        Error::Refused { what: "checkpoint", value: self.0.display().to_string(), reason }
    }

    /// An entry's name without what others put before it.
    fn name(&self, entry: &Entry<'_, impl Read>) -> Result<PathBuf> {
        let name = entry.path().map_err(|e| self.no_tar(e))?;
        if name.components().any(|part| part == Component::ParentDir) {
            return Err(self.refused("has a name with \"..\" in it"));
        }
        Ok(name.components().filter(|part| matches!(part, Component::Normal(_))).collect())
    }

    /// Puts a part in its place. A layer's file is the same file there: nobody writes to either.
    fn put(&self, content: Content<'_>, place: &Path) -> Result<()> {
        match content {
            Content::Entry(from, size) => match copy(from, place)? == size {
                true => Ok(()),
                false => Err(self.refused(CUT)),
            },
            Content::File(path) => std::fs::hard_link(path, place).map_err(|e| {
                Error::io(format!("link {} to {}", place.display(), path.display()), e)
            }),
        }
    }

    /// Reads a part that is not large.
    fn bounded(&self, content: Content<'_>, limit: u64) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        let read = match content {
            Content::Entry(from, _) => from.take(limit + 1).read_to_end(&mut text),
            Content::File(path) => {
                File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut text))
            }
        };
        read.map_err(|e| self.failed(e))?;
        match text.len() as u64 > limit {
            true => Err(self.refused("has a document that is too large")),
            false => Ok(text),
        }
    }
}

fn is_uts(name: &Path) -> bool {
    name.to_str().is_some_and(|name| name.starts_with("utsns-"))
}

/// CRIU's image of a UTS namespace with another host name, and the node's domain name, which all pods
/// have: two magic numbers, a length, and the message `utsns_entry` (criu/images/utsns.proto), whose
/// fields 1 and 2 are those names.
fn uts(image: &[u8], hostname: &str) -> Option<Vec<u8>> {
    let domain = std::fs::read_to_string("/proc/sys/kernel/domainname").unwrap_or_default();
    let mut entry = Vec::new();
    // The kernel takes 64 bytes of either, so one byte has the length.
    for (tag, name) in [(1 << 3 | 2, hostname), (2 << 3 | 2, domain.trim_end())] {
        entry.extend([tag, u8::try_from(name.len()).ok().filter(|length| *length < 128)?]);
        entry.extend_from_slice(name.as_bytes());
    }
    let mut named = image.get(..8)?.to_vec();
    named.extend(u32::try_from(entry.len()).ok()?.to_le_bytes());
    named.extend(entry);
    Some(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_of_a_uts_namespace_is_given_another_name() {
        let image = b"\x19\x43\x56\x54\x03\x32\x47\x54\x07\0\0\0\x0a\x03old\x12\0";
        let named = uts(image, "new-name").unwrap();
        assert_eq!(named[..8], image[..8]);
        assert_eq!(named[8..12], u32::try_from(named.len() - 12).unwrap().to_le_bytes());
        assert_eq!(&named[12..22], b"\x0a\x08new-name");
        assert_eq!(named[22], 0x12);
        assert_eq!(uts(b"short", "new-name"), None);
        assert_eq!(uts(image, &"x".repeat(200)), None);
    }
}
