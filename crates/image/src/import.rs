//! Images from a file: an OCI layout, as a directory or an archive, or what `docker save` writes.
//!
//! An archive is not extracted: its members are found once and read in place. One that is compressed
//! as a whole is first decompressed into a file without a name.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags};
use serde::Deserialize;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layer::Expected;
use crate::manifest::{self, Config, Descriptor, Document};
use crate::platform::Platform;
use crate::reference::{Reference, Version};

/// Documents (indexes, manifests, configs) larger than this are refused.
pub(crate) const DOCUMENT_LIMIT: u64 = 8 << 20;

/// An image as it was found in a file, its layers still to be unpacked.
pub(crate) struct Found {
    pub(crate) id: Digest,
    pub(crate) config_bytes: Vec<u8>,
    pub(crate) config: Config,
    pub(crate) size: u64,
    pub(crate) names: Vec<String>,
    pub(crate) layers: Vec<FoundLayer>,
}

/// Where a layer is, and what it must be.
pub(crate) struct FoundLayer {
    pub(crate) expected: Expected,
    pub(crate) member: String,
}

/// A directory or an archive with named members.
pub(crate) enum Bundle {
    Directory(PathBuf),
    Archive(Archive),
}

/// An archive that can be read at any place.
pub(crate) struct Archive {
    file: Arc<File>,
    members: HashMap<String, Place>,
}

enum Place {
    At { offset: u64, size: u64 },
    LinkTo(String),
}

impl Bundle {
    /// Opens what is at a path; `scratch` is a directory for a file without a name.
    pub(crate) fn open(path: &Path, scratch: &Path) -> Result<Self> {
        let fault = |e| Error::file("open", path, e);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(
            rustix::fs::open(path, flags, Mode::empty())
                .map_err(|e| Error::file("open", path, e))?,
        );
        let kind = file.metadata().map_err(fault)?.file_type();
        if kind.is_dir() {
            return Ok(Self::Directory(path.to_path_buf()));
        }
        if !kind.is_file() {
            return Err(Error::malformed(
                path.display().to_string(),
                "neither a file nor a directory",
            ));
        }
        Archive::open(file, scratch).map(Self::Archive).map_err(|e| Error::file("read", path, e))
    }

    fn has(&self, member: &str) -> bool {
        match self {
            Self::Directory(path) => path.join(plain(member.as_bytes())).is_file(),
            Self::Archive(archive) => archive.place(member).is_some(),
        }
    }

    /// Opens one member, with its size.
    pub(crate) fn member(&self, member: &str) -> Result<(Box<dyn Read + Send>, u64)> {
        match self {
            Self::Directory(path) => {
                let path = path.join(plain(member.as_bytes()));
                let fault = |e| Error::file("open", &path, e);
                let file = File::open(&path).map_err(fault)?;
                let size = file.metadata().map_err(fault)?.len();
                Ok((Box::new(file), size))
            }
            Self::Archive(archive) => {
                let absent = || Error::malformed(member, "the archive does not have it");
                let (offset, size) = archive.place(member).ok_or_else(absent)?;
                let file = Arc::clone(&archive.file);
                Ok((Box::new(Part { file, at: offset, end: offset + size }), size))
            }
        }
    }

    fn document(&self, member: &str) -> Result<Vec<u8>> {
        let (reader, size) = self.member(member)?;
        if size > DOCUMENT_LIMIT {
            return Err(Error::malformed(member, format!("{size} bytes are too many")));
        }
        let mut bytes = Vec::new();
        reader
            .take(DOCUMENT_LIMIT)
            .read_to_end(&mut bytes)
            .map_err(|e| Error::file("read", member, e))?;
        Ok(bytes)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let bytes = self.document(&blob_name(&descriptor.digest))?;
        let found = Digest::of(&bytes);
        match found == descriptor.digest {
            true => Ok(bytes),
            false => Err(Error::Mismatch {
                what: blob_name(&descriptor.digest),
                expected: descriptor.digest.clone(),
                found,
            }),
        }
    }

    /// The images in it, for this machine, with the names that it gives them.
    pub(crate) fn images(&self, here: &Platform) -> Result<Vec<Found>> {
        let tags = match self.has("manifest.json") {
            true => self.docker_manifests()?,
            false => Vec::new(),
        };
        if self.has("index.json") && self.has("oci-layout") {
            return self.oci_images(here, &tags);
        }
        if tags.is_empty() {
            return Err(Error::malformed(
                "the given file",
                "neither an OCI layout (oci-layout, index.json) nor a docker archive (manifest.json)",
            ));
        }
        tags.iter().map(|saved| self.docker_image(saved)).collect()
    }

    fn oci_images(&self, here: &Platform, saved: &[Saved]) -> Result<Vec<Found>> {
        let Document::Index(entries) =
            Document::parse("index.json", &self.document("index.json")?)?
        else {
            return Err(Error::malformed("index.json", "not an index"));
        };
        let named = |entry: &&Descriptor| name_of(entry).is_some();
        let mut chosen: Vec<&Descriptor> = entries.iter().filter(named).collect();
        if chosen.is_empty() {
            chosen.push(manifest::choose("index.json", &entries, here)?);
        }
        let mut found: BTreeMap<Digest, Found> = BTreeMap::new();
        for entry in chosen {
            let mut image = self.oci_image(entry, here)?;
            if let Some(name) = name_of(entry) {
                image.names.push(name.to_string());
                image.names.push(name.at(&entry.digest).to_string());
            }
            for saved in saved.iter().filter(|saved| saved.is(&image.id)) {
                image.names.extend(saved.names()?);
            }
            match found.get_mut(&image.id) {
                Some(known) => known.names.extend(image.names),
                None => {
                    found.insert(image.id.clone(), image);
                }
            }
        }
        Ok(found.into_values().collect())
    }

    fn oci_image(&self, entry: &Descriptor, here: &Platform) -> Result<Found> {
        let mut descriptor = entry.clone();
        for _ in 0..4 {
            let what = blob_name(&descriptor.digest);
            match Document::parse(&what, &self.blob(&descriptor)?)? {
                Document::Index(entries) => {
                    descriptor = manifest::choose(&what, &entries, here)?.clone();
                }
                Document::Manifest(manifest) => {
                    let config_bytes = self.blob(&manifest.config)?;
                    let blobs = manifest.layers.iter().map(|layer| {
                        (blob_name(&layer.digest), Some((layer.digest.clone(), layer.size)))
                    });
                    let size = manifest.layers.iter().map(|layer| layer.size).sum();
                    return found(config_bytes, blobs.collect(), size);
                }
            }
        }
        Err(Error::malformed(blob_name(&entry.digest), "indexes of indexes of indexes"))
    }

    fn docker_manifests(&self) -> Result<Vec<Saved>> {
        serde_json::from_slice(&self.document("manifest.json")?)
            .map_err(|e| Error::malformed("manifest.json", e))
    }

    fn docker_image(&self, saved: &Saved) -> Result<Found> {
        let config_bytes = self.document(&saved.config)?;
        let mut size = 0;
        let mut layers = Vec::new();
        for layer in saved.layers.iter().flatten() {
            size += self.member(layer)?.1;
            layers.push((layer.clone(), None));
        }
        let mut image = found(config_bytes, layers, size)?;
        image.names = saved.names()?;
        Ok(image)
    }
}

fn found(
    config_bytes: Vec<u8>,
    blobs: Vec<(String, Option<(Digest, u64)>)>,
    size: u64,
) -> Result<Found> {
    let id = Digest::of(&config_bytes);
    let config = Config::parse(&format!("image config {id}"), &config_bytes)?;
    let diff_ids = config.diff_ids();
    if diff_ids.len() != blobs.len() {
        let reason = format!("{} diff ids for {} layers", diff_ids.len(), blobs.len());
        return Err(Error::malformed(format!("image config {id}"), reason));
    }
    let layers = diff_ids
        .iter()
        .zip(blobs)
        .map(|(diff_id, (member, blob))| FoundLayer {
            expected: Expected { diff_id: diff_id.clone(), blob },
            member,
        })
        .collect();
    Ok(Found { id, config_bytes, config, size, names: Vec::new(), layers })
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The full name that an entry of a layout carries; one that is a mere tag is no name.
fn name_of(entry: &Descriptor) -> Option<Reference> {
    let full = entry.annotation("io.containerd.image.name");
    let short = entry
        .annotation("org.opencontainers.image.ref.name")
        .filter(|name| name.contains(['/', ':']));
    let name: Reference = full.or(short)?.parse().ok()?;
    matches!(name.version(), Version::Tag(_)).then_some(name)
}

/// One image of `docker save`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl Saved {
    fn names(&self) -> Result<Vec<String>> {
        let tags = self.repo_tags.iter().flatten();
        tags.map(|tag| Ok(tag.parse::<Reference>()?.to_string())).collect()
    }

    fn is(&self, id: &Digest) -> bool {
        self.config.contains(id.hex())
    }
}

impl Archive {
    fn open(mut file: File, scratch: &Path) -> io::Result<Self> {
        let mut head = [0u8; 4];
        let count = file.read_at(&mut head, 0)?;
        match &head[..count] {
            [0x1f, 0x8b, ..] => {
                file = decompressed(flate2::read::MultiGzDecoder::new(file), scratch)?;
            }
            [0x28, 0xb5, 0x2f, 0xfd] => {
                file = decompressed(zstd::stream::read::Decoder::new(file)?, scratch)?;
            }
            _ => {}
        }
        file.seek(SeekFrom::Start(0))?;
        let mut members = HashMap::new();
        let mut archive = tar::Archive::new(&file);
        for entry in archive.entries_with_seek()? {
            let entry = entry?;
            let name = plain(&entry.path_bytes());
            let kind = entry.header().entry_type();
            let place = match entry.link_name_bytes() {
                // Old versions of docker save one layer once and link to it.
                Some(target) if kind.is_symlink() => {
                    let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
                    let target = String::from_utf8_lossy(&target).into_owned();
                    Place::LinkTo(plain(format!("{directory}/{target}").as_bytes()))
                }
                Some(target) if kind.is_hard_link() => Place::LinkTo(plain(&target)),
                _ if kind.is_file() => {
                    Place::At { offset: entry.raw_file_position(), size: entry.size() }
                }
                _ => continue,
            };
            members.insert(name, place);
        }
        Ok(Self { file: Arc::new(file), members })
    }

    fn place(&self, member: &str) -> Option<(u64, u64)> {
        let mut name = plain(member.as_bytes());
        for _ in 0..8 {
            match self.members.get(&name)? {
                Place::At { offset, size } => return Some((*offset, *size)),
                Place::LinkTo(target) => name.clone_from(target),
            }
        }
        None
    }
}

fn decompressed(mut from: impl Read, scratch: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(scratch, flags, Mode::RUSR | Mode::WUSR)?);
    io::copy(&mut from, &mut file)?;
    Ok(file)
}

/// A member's name without `.`, `..` and doubled slashes; it is only ever a key of a map.
fn plain(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// A part of a file, read without moving the file's own position.
struct Part {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let count = self.file.read_at(&mut buffer[..length], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// A reader that ends with an error once nobody wants its content any more.
pub(crate) struct Wanted<R> {
    pub(crate) reader: R,
    pub(crate) unwanted: Arc<AtomicBool>,
}

impl<R: Read> Read for Wanted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.unwanted.load(Ordering::Relaxed) {
            return Err(io::Error::other(Error::Cancelled { what: "the import".to_owned() }));
        }
        self.reader.read(buffer)
    }
}

/// Sets the flag when the work that reads is dropped.
pub(crate) struct Unwant(pub(crate) Arc<AtomicBool>);

impl Drop for Unwant {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_names_are_plain_keys() {
        assert_eq!(plain(b"./a//b/../c"), "a/c");
        assert_eq!(plain(b"../../etc/passwd"), "etc/passwd");
    }

    #[test]
    fn a_mere_tag_is_no_name() {
        let entry = |key: &str, value: &str| -> Descriptor {
            let digest = Digest::of(b"");
            let text =
                format!(r#"{{"digest":"{digest}","size":1,"annotations":{{"{key}":"{value}"}}}}"#);
            serde_json::from_str(&text).unwrap()
        };
        let short = "org.opencontainers.image.ref.name";
        assert!(name_of(&entry(short, "latest")).is_none());
        let name = name_of(&entry(short, "busybox:1")).unwrap();
        assert_eq!(name.to_string(), "docker.io/library/busybox:1");
        let name = name_of(&entry("io.containerd.image.name", "a.b/c:d")).unwrap();
        assert_eq!(name.to_string(), "a.b/c:d");
    }
}
