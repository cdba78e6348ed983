//! Extended attributes beneath a root (xattr(7)), of a symbolic link itself.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::{Beneath, by_descriptor};
use crate::error::Result;

impl Beneath {
    /// Sets an extended attribute, replacing its value.
    ///
    /// # Errors
    /// Unimplemented where the file system has none, Exhausted where they do not fit.
    pub fn set_xattr(&self, path: impl AsRef<Path>, name: &OsStr, value: &[u8]) -> Result<()> {
        self.at_file(path.as_ref(), "set an extended attribute of", |file| {
            rustix::fs::lsetxattr(file, name, value, XattrFlags::empty())
        })
    }

    /// Reads an extended attribute; `None` if there is none of this name.
    pub fn xattr(&self, path: impl AsRef<Path>, name: &OsStr) -> Result<Option<Vec<u8>>> {
        self.at_file(path.as_ref(), "read an extended attribute of", |file| {
            match sized(|buffer| rustix::fs::lgetxattr(file, name, buffer)) {
                Ok(value) => Ok(Some(value)),
                Err(Errno::NODATA) => Ok(None),
                Err(errno) => Err(errno),
            }
        })
    }

    /// The names of all extended attributes; none where the file system has none.
    pub fn xattrs(&self, path: impl AsRef<Path>) -> Result<Vec<OsString>> {
        let list = self.at_file(path.as_ref(), "list the extended attributes of", |file| {
            match sized(|buffer| rustix::fs::llistxattr(file, buffer)) {
                Err(Errno::NOTSUP) => Ok(Vec::new()),
                other => other,
            }
        })?;
        let names = list.split(|b| *b == 0).filter(|name| !name.is_empty());
        Ok(names.map(|name| OsString::from_vec(name.to_vec())).collect())
    }

    /// Removes an extended attribute; absent is fine.
    pub fn remove_xattr(&self, path: impl AsRef<Path>, name: &OsStr) -> Result<()> {
        self.at_file(path.as_ref(), "remove an extended attribute of", |file| {
            match rustix::fs::lremovexattr(file, name) {
                Err(Errno::NODATA) => Ok(()),
                other => other,
            }
        })
    }

    /// These calls take no directory descriptor before Linux 6.13: the directory is named by its
    /// link in /proc, and the last part is not followed by the `l` calls.
    fn at_file<T>(
        &self,
        path: &Path,
        attempted: &'static str,
        call: impl FnOnce(&Path) -> rustix::io::Result<T>,
    ) -> Result<T> {
        self.at(path, attempted, |dir, name| {
            let mut file = PathBuf::from(by_descriptor(dir));
            file.push(OsStr::from_bytes(name.as_bytes()));
            call(&file)
        })
    }
}

/// Calls with a buffer that grows until the answer fits (64 KiB is the kernel's own limit).
fn sized(
    mut call: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; 256];
    loop {
        match call(&mut buffer) {
            Ok(count) => {
                buffer.truncate(count);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 8, 0),
            Err(errno) => return Err(errno),
        }
    }
}
