//! Names of cgroups.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A checked name: absolute, of plain components, and never the root, which nobody may kill,
/// limit or remove.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CgroupPath(String);

impl CgroupPath {
    /// Checks a name.
    pub fn parse(name: &str) -> Result<Self> {
        let refuse = |reason| Err(Error::Path { name: name.to_owned(), reason });
        let Some(rest) = name.strip_prefix('/') else {
            return refuse("must begin with /");
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.is_empty() {
            return refuse("is the root of all cgroups");
        }
        for component in rest.split('/') {
            if component.is_empty() || component == "." || component == ".." {
                return refuse("has an empty component, . or ..");
            }
            if component.len() > 255 {
                return refuse("has a component of more than 255 bytes");
            }
            if component.bytes().any(|b| b < 0x20 || b == 0x7f) {
                return refuse("has a control character");
            }
        }
        Ok(Self(format!("/{rest}")))
    }

    /// The name below this one.
    pub fn child(&self, name: &str) -> Result<Self> {
        Self::parse(&format!("{}/{name}", self.0))
    }

    /// The name above, or `None` just below the root.
    pub fn parent(&self) -> Option<Self> {
        let (parent, _) = self.0.rsplit_once('/')?;
        (!parent.is_empty()).then(|| Self(parent.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its directory in the hierarchy mounted at `root`.
    pub(crate) fn under(&self, root: &Path) -> PathBuf {
        root.join(&self.0[1..])
    }

    /// This name and all above it, the topmost first.
    pub(crate) fn lineage(&self) -> Vec<Self> {
        let mut names = vec![self.clone()];
        while let Some(parent) = names.last().and_then(Self::parent) {
            names.push(parent);
        }
        names.reverse();
        names
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_and_ways_around_are_refused() {
        for name in ["", "/", "//", "a", "/..", "/a/../b", "/a//b", "/./a", "/a\nb", "/a/."] {
            assert!(CgroupPath::parse(name).is_err(), "{name:?}");
        }
        assert!(CgroupPath::parse(&format!("/{}", "x".repeat(256))).is_err());
    }

    #[test]
    fn lineage_goes_from_the_top() {
        let path = CgroupPath::parse("/a/b/c/").unwrap();
        let names: Vec<_> = path.lineage().iter().map(|p| p.as_str().to_owned()).collect();
        assert_eq!(names, ["/a", "/a/b", "/a/b/c"]);
        assert_eq!(path.under(Path::new("/sys")), Path::new("/sys/a/b/c"));
    }
}
