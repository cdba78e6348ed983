//! OCI images made from nothing: layers, configs, manifests, and the samples that the tests run.
//!
//! Owns the making of bytes and digests. It must not know where they go: a registry
//! ([`crate::push`]) or an archive ([`archive`]).

pub mod archive;
mod build;
mod layer;
pub mod samples;

pub(crate) use build::architecture;
pub use build::{Image, ManifestKind};
pub use layer::{Compression, Layer, Packed};

use sha2::{Digest, Sha256};

/// A blob with its media type and digest, ready to be stored anywhere.
#[derive(Clone, Debug)]
pub struct Blob {
    /// The media type a descriptor names it by.
    pub media_type: String,
    /// `sha256:` and 64 hex digits.
    pub digest: String,
    /// The content.
    pub bytes: Vec<u8>,
}

impl Blob {
    /// Wraps bytes and computes their digest.
    #[must_use]
    pub fn new(media_type: &str, bytes: Vec<u8>) -> Self {
        Self { media_type: media_type.to_owned(), digest: digest(&bytes), bytes }
    }

    /// The OCI descriptor of this blob.
    #[must_use]
    pub fn descriptor(&self) -> serde_json::Value {
        serde_json::json!({
            "mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len(),
        })
    }
}

/// The digest of some bytes as OCI writes it.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(bytes) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}
