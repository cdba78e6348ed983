//! Content digests: what identifies a blob, a layer and an image.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use sha2::Digest as _;

use crate::error::Error;

/// A SHA-256 digest in the form `sha256:` and 64 lower-case hexadecimal digits.
///
/// SHA-512, which the OCI specification also registers, is not accepted: no registry in use serves
/// it, and a second algorithm would double the names of every layer.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(Arc<str>);

const PREFIX: &str = "sha256:";

impl Digest {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.finish()
    }

    /// The whole text, with its algorithm.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The hexadecimal digits alone.
    pub fn hex(&self) -> &str {
        self.0.get(PREFIX.len()..).unwrap_or_default()
    }

    /// The chain id of a layer with this diff id on top of `below` (OCI image config, "Layer
    /// ChainID").
    pub fn chain(&self, below: Option<&Digest>) -> Digest {
        match below {
            None => self.clone(),
            Some(below) => Digest::of(format!("{below} {self}").as_bytes()),
        }
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let fault = |reason| Error::NotADigest { text: text.to_owned(), reason };
        let hex =
            text.strip_prefix(PREFIX).ok_or_else(|| fault("it must begin with \"sha256:\""))?;
        if !is_hex(hex) || hex.len() != 64 {
            return Err(fault("\"sha256:\" is followed by 64 lower-case hexadecimal digits"));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Whether a text consists of lower-case hexadecimal digits only.
pub(crate) fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// A running digest.
#[derive(Default)]
pub(crate) struct Hasher(sha2::Sha256);

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        use fmt::Write as _;
        let mut text = String::with_capacity(PREFIX.len() + 64);
        text.push_str(PREFIX);
        for byte in self.0.finalize() {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        Digest(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_digest_of_nothing_is_the_known_one() {
        assert_eq!(Digest::of(b"").as_str(), EMPTY);
        assert_eq!(Digest::of(b"").hex().len(), 64);
    }

    #[test]
    fn other_algorithms_and_shapes_are_refused() {
        assert!(EMPTY.parse::<Digest>().is_ok());
        for text in ["", "sha256:", "sha256:abc", &EMPTY.to_uppercase(), "sha512:00", &EMPTY[7..]] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_chain_id_is_the_digest_of_both_texts() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        assert_eq!(a.chain(None), a);
        assert_eq!(b.chain(Some(&a)), Digest::of(format!("{a} {b}").as_bytes()));
    }
}
