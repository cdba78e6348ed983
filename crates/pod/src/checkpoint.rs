//! What a container can be made of, beside its image.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A checkpoint that a container can be made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Checkpoint {
    /// An archive, by its absolute path on the node.
    Archive(PathBuf),
    /// An image that has what an archive has, by its id.
    Image(String),
}

impl std::fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Archive(path) => write!(f, "{}", path.display()),
            Self::Image(id) => f.write_str(id),
        }
    }
}
