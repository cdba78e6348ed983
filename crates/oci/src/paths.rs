//! Paths as text: no file system is asked.

use std::path::{Component, Path, PathBuf};

use crate::error::Error;

/// An absolute path of a container without `.`, `..` and doubled slashes.
pub(crate) fn absolute(field: &str, path: &Path) -> Result<PathBuf, Error> {
    no_nul(field, path.to_string_lossy().as_ref())?;
    if !path.is_absolute() {
        return Err(Error::invalid(field, format!("{path:?} must be an absolute path")));
    }
    Ok(clean(path))
}

/// The same path without `.`, `..` and doubled slashes; relative ones start at the root.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    out
}

/// JSON can carry a NUL, a C string cannot: the runtime would see a shorter text.
pub(crate) fn no_nul(field: &str, text: &str) -> Result<(), Error> {
    if text.contains('\0') {
        return Err(Error::invalid(field, format!("{text:?} contains a NUL byte")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clean_path_never_leaves_the_root() {
        for (given, cleaned) in
            [("/", "/"), ("//a//b/", "/a/b"), ("/a/../../b/.", "/b"), ("app", "/app"), ("", "/")]
        {
            assert_eq!(clean(Path::new(given)), Path::new(cleaned), "{given}");
        }
    }
}
