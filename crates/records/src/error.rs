//! What can go wrong with the database.

use std::path::PathBuf;

use berth_pod::Kind;

/// A failure of the record database.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// It cannot be opened or made.
    #[error("the record database {path} cannot be opened: {why}; check the directory and the disk")]
    Open {
        /// The file.
        path: PathBuf,
        /// SQLite's reason.
        why: String,
    },
    /// A statement failed.
    #[error("the record database {path} failed: {why}")]
    Failed {
        /// The file.
        path: PathBuf,
        /// SQLite's reason.
        why: String,
    },
    /// The disk takes no more.
    #[error("the record database {path} cannot be written: {why}; make room on its disk")]
    Full {
        /// The file.
        path: PathBuf,
        /// SQLite's reason.
        why: String,
    },
    /// The disk fails, or takes no writes.
    #[error(
        "the record database {path} cannot be written: {why}; see that its disk works, takes writes and has room"
    )]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// SQLite's reason.
        why: String,
    },
    /// A record cannot be written down.
    #[error("a record cannot be encoded: {0}")]
    Encode(String),
    /// The writer has ended.
    #[error("the record database is closed")]
    Closed,
}

impl Error {
    /// What sort of failure it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Full { .. } => Kind::Exhausted,
            Self::Open { .. } | Self::Unwritable { .. } => Kind::Unavailable,
            Self::Failed { .. } | Self::Encode(_) | Self::Closed => Kind::Broken,
        }
    }
}
