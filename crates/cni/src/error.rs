//! What can go wrong with a pod's network, and what kind of failure each is.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Verb;

/// What sort of failure an error is, whatever its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request, the configuration or the cache is wrong.
    Invalid,
    /// The attachment named is not there.
    NotFound,
    /// A plugin says: try again later (code 11).
    Busy,
    /// A plugin took longer than allowed.
    TimedOut,
    /// There is no network, a plugin is missing or says that it cannot serve, or the disk is
    /// read-only.
    Unavailable,
    /// The network's version or configuration does not have this verb.
    Unimplemented,
    /// No space, memory or descriptors.
    Exhausted,
    /// Everything else.
    Broken,
}

/// The error object that a plugin printed (CNI spec, section 5, "Error").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginError {
    /// The code: 1 to 99 are the specification's, others the plugin's own.
    pub code: u64,
    /// A short message.
    pub msg: String,
    /// A longer one; often empty.
    pub details: String,
}

impl std::fmt::Display for PluginError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (code {}", self.msg, self.code)?;
        if !self.details.is_empty() {
            write!(f, "; {}", self.details)?;
        }
        f.write_str(")")
    }
}

/// A failure, with what was attempted and on what.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No network is configured.
    #[error("{0}")]
    NoNetwork(String),
    /// A configuration that cannot be used.
    #[error("CNI configuration {}: {problem}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The caller's description of the attachment cannot be given to plugins.
    #[error("CNI attachment of {id:?}: {problem}")]
    Attachment {
        /// The container id.
        id: String,
        /// What is wrong.
        problem: String,
    },
    /// A plugin's executable was not found.
    #[error("CNI plugin {plugin:?} is missing: looked in {searched}")]
    Missing {
        /// The plugin's type.
        plugin: String,
        /// The directories, in order.
        searched: String,
    },
    /// A plugin answered with an error.
    #[error("CNI plugin {plugin:?} failed {verb}: {error}")]
    Plugin {
        /// The plugin's type.
        plugin: String,
        /// What it was asked.
        verb: Verb,
        /// Its answer.
        error: PluginError,
    },
    /// A plugin's answer makes no sense.
    #[error("CNI plugin {plugin:?} answered {verb} with nonsense: {problem}")]
    Answer {
        /// The plugin's type.
        plugin: String,
        /// What it was asked.
        verb: Verb,
        /// What is wrong, with an excerpt of what it printed.
        problem: String,
    },
    /// A plugin was killed because it took too long.
    #[error("CNI plugin {plugin:?} had not finished {verb} after {after:?} and was killed{detail}")]
    TimedOut {
        /// The plugin's type.
        plugin: String,
        /// What it was asked.
        verb: Verb,
        /// How long it ran.
        after: Duration,
        /// What it said, and who of it remains.
        detail: String,
    },
    /// A plugin could not be run.
    #[error("CNI plugin {plugin:?} could not be run for {verb}: {source}")]
    Run {
        /// The plugin's type.
        plugin: String,
        /// What it was to be asked.
        verb: Verb,
        /// Why not.
        source: berth_job::Error,
    },
    /// Plugins succeeded, and yet the pod has no address.
    #[error("CNI network {network:?} gave the pod no address: {problem}")]
    NoAddress {
        /// The network.
        network: String,
        /// What the result lacks.
        problem: String,
    },
    /// Nothing is known of this attachment.
    #[error("no cached CNI result of {id:?}")]
    NotAttached {
        /// The container id.
        id: String,
    },
    /// The network does not have this verb.
    #[error("CNI network {network:?} cannot {verb}: {why}")]
    Unimplemented {
        /// The network.
        network: String,
        /// The verb.
        verb: Verb,
        /// Why not.
        why: &'static str,
    },
    /// The cache could not be read or written.
    #[error("{action} {}: {source}", path.display())]
    Cache {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A cache entry that cannot be understood.
    #[error("CNI cache entry {}: {problem}", path.display())]
    CacheEntry {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The wait for a GC in progress took too long.
    #[error("CNI {verb} waited {after:?} for a garbage collection of the network to end")]
    Collecting {
        /// What was to be done.
        verb: Verb,
        /// How long it waited.
        after: Duration,
    },
}

impl Error {
    /// What sort of failure this is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Error::NoNetwork(_) | Error::Missing { .. } => Kind::Unavailable,
            Error::Config { .. } | Error::Attachment { .. } => Kind::Invalid,
            Error::Plugin { error, .. } => plugin_kind(error.code),
            Error::TimedOut { .. } | Error::Collecting { .. } => Kind::TimedOut,
            Error::NotAttached { .. } => Kind::NotFound,
            Error::Unimplemented { .. } => Kind::Unimplemented,
            Error::Run { source, .. } if source.kind() == berth_sys::Kind::Exhausted => {
                Kind::Exhausted
            }
            Error::Cache { source, .. } if is_full(source) => Kind::Exhausted,
            Error::Cache { source, .. } if source.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                Kind::Unavailable
            }
            Error::Answer { .. }
            | Error::Run { .. }
            | Error::NoAddress { .. }
            | Error::Cache { .. }
            | Error::CacheEntry { .. } => Kind::Broken,
        }
    }

    pub(crate) fn cache(action: &'static str, path: &Path, source: io::Error) -> Error {
        Error::Cache { action, path: path.to_owned(), source }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The codes of the specification: 1 version, 2 field, 4 environment, 6 decoding, 7 configuration;
/// 11 try again; 50 and 51 the plugin cannot serve now.
fn plugin_kind(code: u64) -> Kind {
    match code {
        1 | 2 | 4 | 6 | 7 => Kind::Invalid,
        3 => Kind::NotFound,
        11 => Kind::Busy,
        50 | 51 => Kind::Unavailable,
        _ => Kind::Broken,
    }
}
