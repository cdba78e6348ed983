//! What a container has changed of its image's files, in the form that Podman and CRI-O have given
//! checkpoints: a tar of what is new or different, and a list of what is gone.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tar::{Builder, EntryType, Header};

use crate::Done;
use crate::error::{Error, Result};

/// The names that others look for.
pub(crate) const DIFF: &str = "rootfs-diff.tar";
pub(crate) const DELETED: &str = "deleted.files";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    /// The container's writable layer, an upper directory of overlay.
    upper: PathBuf,
    /// The layers below it, the uppermost first.
    lower: Vec<PathBuf>,
    /// Where both files are written.
    into: PathBuf,
}

/// Writes both files. Nothing may change below `upper` meanwhile: whoever asks has frozen the
/// container.
pub(crate) fn changes(request: Request) -> Result<Done> {
    let path = request.into.join(DIFF);
    let file = File::create(&path).map_err(|e| failed("write", &path, e))?;
    let tar = Builder::new(std::io::BufWriter::new(file));
    let (upper, lower) = (request.upper, request.lower);
    let mut walk = Walk { upper, lower, tar, deleted: BTreeSet::new(), linked: HashMap::new() };
    walk.directory(Path::new(""))?;
    let done = walk.tar.into_inner().and_then(|buffer| Ok(buffer.into_inner()?));
    done.map_err(|e| failed("write", &path, e))?;
    if walk.deleted.is_empty() {
        return Ok(Done {});
    }
    let path = request.into.join(DELETED);
    let text = serde_json::to_vec(&walk.deleted).map_err(|e| failed("write", &path, e))?;
    std::fs::write(&path, text).map_err(|e| failed("write", &path, e))?;
    Ok(Done {})
}

fn failed(attempted: &str, path: &Path, why: impl Into<std::io::Error>) -> Error {
    Error::io(format!("{attempted} {}", path.display()), why)
}

struct Walk {
    upper: PathBuf,
    lower: Vec<PathBuf>,
    tar: Builder<std::io::BufWriter<File>>,
    /// As paths in the container.
    deleted: BTreeSet<String>,
    /// The first name of a file that has several.
    linked: HashMap<u64, PathBuf>,
}

impl Walk {
    fn directory(&mut self, name: &Path) -> Result<()> {
        let path = self.upper.join(name);
        let names = names(&path)?;
        if xattr(&path, "trusted.overlay.opaque").is_some() {
            let below: Vec<_> = self.lower.iter().map(|lower| lower.join(name)).collect();
            for below in below {
                // A layer need not have it, or not as a directory.
                for hidden in self::names(&below).unwrap_or_default() {
                    if !names.contains(&hidden) {
                        self.gone(&name.join(hidden));
                    }
                }
            }
        }
        for entry in names {
            self.entry(&name.join(entry))?;
        }
        Ok(())
    }

    fn gone(&mut self, name: &Path) {
        self.deleted.insert(format!("/{}", name.to_string_lossy()));
    }

    fn entry(&mut self, name: &Path) -> Result<()> {
        let path = self.upper.join(name);
        let meta = path.symlink_metadata().map_err(|e| failed("look at", &path, e))?;
        let kind = meta.file_type();
        if kind.is_char_device() && meta.rdev() == 0 {
            self.gone(name);
            return Ok(());
        }
        // A socket is made anew by whoever listens at it.
        if kind.is_socket() {
            return Ok(());
        }
        for lazy in ["trusted.overlay.redirect", "trusted.overlay.metacopy"] {
            if xattr(&path, lazy).is_some() {
                let value = path.display().to_string();
                let reason = "is not whole in the writable layer (overlay's redirect_dir or \
                              metacopy is on), and cannot be written to a checkpoint";
                return Err(Error::Refused { what: "file", value, reason });
            }
        }
        self.write(name, &path, &meta).map_err(|e| failed("write to the checkpoint", &path, e))?;
        if kind.is_dir() { self.directory(name) } else { Ok(()) }
    }

    fn write(&mut self, name: &Path, path: &Path, meta: &Metadata) -> std::io::Result<()> {
        let kind = meta.file_type();
        let mut header = Header::new_gnu();
        header.set_metadata(meta);
        header.set_size(0);
        if !kind.is_dir() && meta.nlink() > 1 {
            if let Some(first) = self.linked.get(&meta.ino()) {
                header.set_entry_type(EntryType::Link);
                return self.tar.append_link(&mut header, name, first);
            }
            self.linked.insert(meta.ino(), name.to_owned());
        }
        if let Some(capability) = xattr(path, "security.capability") {
            let key = "SCHILY.xattr.security.capability";
            self.tar.append_pax_extensions([(key, &capability[..])])?;
        }
        if kind.is_symlink() {
            let target = std::fs::read_link(path)?;
            return self.tar.append_link(&mut header, name, target);
        }
        if kind.is_block_device() || kind.is_char_device() {
            header.set_device_major(rustix::fs::major(meta.rdev()))?;
            header.set_device_minor(rustix::fs::minor(meta.rdev()))?;
        }
        if !kind.is_file() {
            return self.tar.append_data(&mut header, name, std::io::empty());
        }
        // Holes stay holes: a file may be longer than all disks of the node.
        self.tar.append_file(name, &mut File::open(path)?)
    }
}

/// The names in a directory.
fn names(path: &Path) -> Result<BTreeSet<OsString>> {
    let entries = std::fs::read_dir(path).map_err(|e| failed("read", path, e))?;
    entries.map(|entry| Ok(entry.map_err(|e| failed("read", path, e))?.file_name())).collect()
}

/// An extended attribute, if there is one.
fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 4096];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}
