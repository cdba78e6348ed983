//! Who needs an image to stay whole: symbolic links, one per holder, that name the image's id.
//!
//! Making one is a single system call without a sync: it survives the death of the daemon, and after
//! a power cut there is no container left that would need it.

use std::collections::HashMap;
use std::io;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::shelf::{Paths, Shelf};

/// Whether a text can be the name of a file of ours.
pub(crate) fn check_name(what: &'static str, name: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let dots = name.bytes().all(|b| b == b'.');
    match name.len() <= 128 && name.bytes().all(plain) && !dots {
        true => Ok(()),
        false => Err(Error::Name { what, name: name.to_owned() }),
    }
}

/// Reads all holds.
pub(crate) fn read(paths: &Paths) -> Result<HashMap<String, Digest>> {
    let directory = paths.holds();
    let fault = |e| Error::file("read", &directory, e);
    let mut holds = HashMap::new();
    for entry in std::fs::read_dir(&directory).map_err(fault)? {
        let entry = entry.map_err(fault)?;
        let target = std::fs::read_link(entry.path()).ok();
        let id = target.and_then(|target| target.to_str()?.parse::<Digest>().ok());
        match (entry.file_name().into_string(), id) {
            (Ok(holder), Some(id)) => {
                holds.insert(holder, id);
            }
            _ => tracing::warn!(path = %entry.path().display(), "not a hold: left alone"),
        }
    }
    Ok(holds)
}

impl Shelf {
    /// Keeps an image whole for a holder. A repeat is well; another image replaces the first.
    pub(crate) fn hold(&self, holder: &str, id: &Digest) -> Result<()> {
        check_name("holder", holder)?;
        let before = {
            let mut state = self.state();
            if !state.images.contains_key(id) {
                return Err(Error::NoImage { reference: id.to_string() });
            }
            state.holds.insert(holder.to_owned(), id.clone())
        };
        if before.as_ref() == Some(id) {
            return Ok(());
        }
        let path = self.paths.holds().join(holder);
        let link = || std::os::unix::fs::symlink(id.as_str(), &path);
        let linked = match link() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                std::fs::remove_file(&path).and_then(|()| link())
            }
            linked => linked,
        };
        linked.map_err(|error| {
            self.state().holds.remove(holder);
            Error::file("create", &path, error)
        })
    }

    /// Lets go. Says whether there was a hold.
    pub(crate) fn unhold(&self, holder: &str) -> Result<bool> {
        check_name("holder", holder)?;
        let path = self.paths.holds().join(holder);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::file("remove", &path, error));
            }
            _ => {}
        }
        Ok(self.state().holds.remove(holder).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_directory_are_refused() {
        assert!(check_name("holder", "a1_b.c-d").is_ok());
        for bad in ["", ".", "..", "a/b", "a\0", "ä", &"x".repeat(129)] {
            assert!(check_name("holder", bad).is_err(), "{bad}");
        }
    }
}
