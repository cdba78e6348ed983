//! The archive of a checkpoint, read again: who it is of, and the parts that a container is made of.
//!
//! What it says is a stranger's word. Nothing of it is put below a name that it gives: each part has
//! a place of its own, flat, and no more is written than the archive itself is long.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

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
/// A fifo in a file's place must not be waited for.
const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Peek {
    archive: PathBuf,
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
    let at = Opened::open(&request.archive)?;
    let (mut config, mut spec) = (None, None);
    for entry in at.tar().entries_with_seek().map_err(|e| at.failed(e))? {
        let entry = entry.map_err(|e| at.no_tar(e))?;
        let into = match at.name(&entry)?.to_str() {
            Some(CONFIG) => &mut config,
            Some(SPEC) => &mut spec,
            _ => continue,
        };
        let text = at.document(entry)?;
        let read = serde_json::from_slice(&text);
        *into = Some(read.map_err(|_| at.refused("has a document that is no JSON"))?);
        if config.is_some() && spec.is_some() {
            break;
        }
    }
    match (config, spec) {
        (Some(config), Some(spec)) => Ok(Seen { config, spec }),
        _ => Err(at.refused("is no checkpoint: it has no config.dump and spec.dump")),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    archive: PathBuf,
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
    let at = Opened::open(&request.archive)?;
    let mut left = at.length;
    let mut deleted = BTreeSet::new();
    let images = request.into.join(IMAGES);
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&images);
    made.map_err(|e| Error::io(format!("make {}", images.display()), e))?;
    // A container that has changed nothing may be without.
    put(&mut std::io::empty(), &request.into.join(DIFF))?;
    for entry in at.tar().entries_with_seek().map_err(|e| at.failed(e))? {
        let mut entry = entry.map_err(|e| at.no_tar(e))?;
        let kind = entry.header().entry_type();
        let Some(part) = part(&at.name(&entry)?).filter(|_| kind != EntryType::Directory) else {
            continue;
        };
        // A link would lead out, and what has holes may be of any length.
        if !matches!(kind, EntryType::Regular | EntryType::Continuous) {
            return Err(at.refused("has a part that is no plain file"));
        }
        let size = entry.size();
        left = left.checked_sub(size).ok_or_else(|| {
            at.refused("is cut off: it has entries that are longer than it is itself")
        })?;
        match part {
            Part::Deleted => {
                let text = at.bounded(entry, LIST)?;
                let read = serde_json::from_slice(&text);
                deleted = read.map_err(|_| at.refused("has a deleted.files that is no list"))?;
            }
            Part::Spec => {
                put(&mut &at.document(entry)?[..], &request.into.join(SPEC))?;
            }
            Part::Changes => at.whole(size, put(&mut entry, &request.into.join(DIFF))?)?,
            Part::Image(name) if is_uts(&name) => {
                let named = uts(&at.document(entry)?, &request.hostname);
                let named = named.ok_or_else(|| at.refused("has a utsns image that is none"))?;
                put(&mut &named[..], &images.join(name))?;
            }
            Part::Image(name) => at.whole(size, put(&mut entry, &images.join(name))?)?,
        }
    }
    Ok(Unpacked { deleted })
}

/// Writes a file, and says how long it is; the last one of a name stays.
fn put(from: &mut impl Read, path: &Path) -> Result<u64> {
    let failed = |e| Error::io(format!("write {}", path.display()), e);
    let mut options = File::options();
    let to = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    std::io::copy(from, &mut to.map_err(failed)?).map_err(failed)
}

/// What a container is made of.
enum Part {
    Deleted,
    Spec,
    Changes,
    /// One of CRIU's images, by its name.
    Image(PathBuf),
}

/// What an entry is, if it is of use.
fn part(name: &Path) -> Option<Part> {
    match name.to_str() {
        Some(DELETED) => return Some(Part::Deleted),
        Some(SPEC) => return Some(Part::Spec),
        Some(DIFF) => return Some(Part::Changes),
        _ => {}
    }
    let file = name.strip_prefix(IMAGES).ok()?;
    (file.components().count() == 1).then(|| Part::Image(file.to_owned()))
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

/// An archive, for what is said of it.
struct Opened<'a> {
    path: &'a Path,
    file: File,
    /// Bytes.
    length: u64,
}

impl<'a> Opened<'a> {
    /// Opens an archive that nobody but root can have written.
    fn open(path: &'a Path) -> Result<Self> {
        let failed = |e| Error::io(format!("read the checkpoint {}", path.display()), e);
        let file = File::options().read(true).custom_flags(NONBLOCK).open(path).map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        let at = Self { path, file, length: meta.len() };
        if !meta.is_file() {
            return Err(at.refused("is no file"));
        }
        if meta.uid() != 0 || meta.mode() & 0o022 != 0 {
            return Err(at.refused(
                "is not root's alone to write, and what is restored runs with whatever it says: \
                 look where it comes from, then chown it to root and take write access from others",
            ));
        }
        Ok(at)
    }

    fn tar(&self) -> Archive<&File> {
        Archive::new(&self.file)
    }

    fn failed(&self, why: std::io::Error) -> Error {
        Error::io(format!("read the checkpoint {}", self.path.display()), why)
    }

    /// A header that cannot be read is the archive's fault, unless the disk's.
    fn no_tar(&self, why: std::io::Error) -> Error {
        match why.raw_os_error() {
            Some(_) => self.failed(why),
            None => self.refused("is no checkpoint: it is no uncompressed tar, or is cut off"),
        }
    }

    fn refused(&self, reason: &'static str) -> Error {
        Error::Refused { what: "checkpoint", value: self.path.display().to_string(), reason }
    }

    /// An entry's name without what others put before it.
    fn name(&self, entry: &Entry<'_, impl Read>) -> Result<PathBuf> {
        let name = entry.path().map_err(|e| self.no_tar(e))?;
        if name.components().any(|part| part == Component::ParentDir) {
            return Err(self.refused("has a name with \"..\" in it"));
        }
        Ok(name.components().filter(|part| matches!(part, Component::Normal(_))).collect())
    }

    fn whole(&self, size: u64, found: u64) -> Result<()> {
        match size == found {
            true => Ok(()),
            false => Err(self.refused("is cut off")),
        }
    }

    fn document(&self, entry: impl Read) -> Result<Vec<u8>> {
        self.bounded(entry, DOCUMENT)
    }

    fn bounded(&self, entry: impl Read, limit: u64) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        entry.take(limit + 1).read_to_end(&mut text).map_err(|e| self.failed(e))?;
        match text.len() as u64 > limit {
            true => Err(self.refused("has a document that is too large")),
            false => Ok(text),
        }
    }
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
