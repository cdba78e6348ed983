//! Where a shim listens.

use std::fmt;
use std::path::PathBuf;

use crate::{Error, Result};

/// The longest path that fits in a socket address, its closing NUL left out (unix(7)).
const MAX_PATH: usize = 107;

/// A unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A socket in the file system.
    Path(PathBuf),
    /// A socket in the abstract namespace, without the leading NUL.
    Abstract(String),
}

impl Address {
    /// Parses `unix:///run/x.sock`, `/run/x.sock`, `unix://@name` or `unix://\0name`.
    ///
    /// # Errors
    /// Any other form, and a path that is too long for a socket.
    pub fn parse(text: &str) -> Result<Address> {
        // Of a text that is too long, some is enough.
        let wrong = |problem| Error::Address { address: text.chars().take(200).collect(), problem };
        let rest = text.strip_prefix("unix://").unwrap_or(text);
        if rest.len() > MAX_PATH {
            return Err(wrong("longer than a socket address can be (107 bytes)"));
        }
        if let Some(name) = rest.strip_prefix(['@', '\0']) {
            if name.is_empty() {
                return Err(wrong("its abstract name is empty"));
            }
            return Ok(Address::Abstract(name.to_owned()));
        }
        if !rest.starts_with('/') {
            return Err(wrong("neither an absolute path nor an abstract name of a unix socket"));
        }
        if rest.contains('\0') {
            return Err(wrong("a path cannot contain NUL"));
        }
        Ok(Address::Path(rest.into()))
    }

    /// The path to connect to as tokio takes it: an abstract name starts with NUL.
    pub(crate) fn to_path(&self) -> PathBuf {
        match self {
            Address::Path(path) => path.clone(),
            Address::Abstract(name) => format!("\0{name}").into(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Path(path) => write!(f, "unix://{}", path.display()),
            Address::Abstract(name) => write!(f, "unix://@{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_in_the_field_are_understood() {
        for text in ["unix:///run/a.sock", "/run/a.sock"] {
            assert_eq!(Address::parse(text).unwrap(), Address::Path("/run/a.sock".into()));
        }
        for text in ["unix://@a", "@a", "unix://\0a"] {
            assert_eq!(Address::parse(text).unwrap(), Address::Abstract("a".into()));
        }
    }

    #[test]
    fn what_is_no_unix_socket_is_refused() {
        let long = format!("unix:///{}", "x".repeat(107));
        for text in ["", "a.sock", "unix://", "unix://@", "vsock://3:1024", "/a\0b", &long] {
            assert!(matches!(Address::parse(text), Err(Error::Address { .. })), "{text:?}");
        }
        assert!(Address::parse(&long[..long.len() - 1]).is_ok());
    }

    #[test]
    fn what_is_shown_parses_back() {
        for address in [Address::Path("/a".into()), Address::Abstract("b".into())] {
            assert_eq!(Address::parse(&address.to_string()).unwrap(), address);
        }
    }
}
