//! What can go wrong with plugins.

use std::io;
use std::path::PathBuf;

use crate::Failure;

/// What this crate's functions return.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something with plugins does not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket for plugins cannot be made.
    #[error("cannot listen for NRI plugins at {path}: {source}")]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A plugin cannot be started.
    #[error("cannot start NRI plugin {path}: {why}")]
    Launch {
        /// Its program.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// A plugin does not say who it is, or not in time, or what it says is wrong.
    #[error("NRI plugin {plugin}: {why}")]
    Register {
        /// Its name, as far as it is known.
        plugin: String,
        /// What is wrong.
        why: String,
    },
    /// A plugin refuses a step: the step fails.
    #[error("NRI plugin {plugin} refuses {call}: {message}")]
    Refused {
        /// The plugin.
        plugin: String,
        /// The call.
        call: &'static str,
        /// Its words.
        message: String,
    },
    /// Two plugins set the same.
    #[error(
        "NRI plugins {first} and {second} both set {what} of container {container}: configure one of them not to"
    )]
    Conflict {
        /// What they set.
        what: String,
        /// Whose.
        container: String,
        /// Who set it.
        first: String,
        /// Who wanted to set it as well.
        second: String,
    },
    /// A plugin asks for what cannot be.
    #[error("NRI plugin {plugin}: {why}")]
    Wrong {
        /// The plugin.
        plugin: String,
        /// What is wrong.
        why: String,
    },
    /// A plugin that must be there is not.
    #[error("NRI plugins that are required are not connected: {missing}: start them, or {advice}")]
    Missing {
        /// Their names.
        missing: String,
        /// How else it would work.
        advice: String,
    },
    /// An annotation about plugins cannot be read.
    #[error("annotation {key}: {value:?} {why}")]
    Annotation {
        /// Its key.
        key: String,
        /// What it says.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// The daemon ends.
    #[error("NRI: the daemon ends")]
    Ending,
    /// The daemon is wrong.
    #[error("NRI: a bug: the call of plugins panicked")]
    Panicked,
}

/// What sort of failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request cannot be honoured as it is.
    Invalid,
    /// It may work later.
    Unavailable,
    /// Nobody can mend it from outside.
    Broken,
}

impl Error {
    /// What sort of failure this is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Error::Conflict { .. } | Error::Wrong { .. } | Error::Annotation { .. } => {
                Kind::Invalid
            }
            Error::Listen { .. }
            | Error::Launch { .. }
            | Error::Register { .. }
            | Error::Missing { .. }
            | Error::Ending => Kind::Unavailable,
            Error::Refused { .. } | Error::Panicked => Kind::Broken,
        }
    }
}

/// What is left of a plugin after a call of it failed.
pub(crate) enum After {
    /// It refused this, and lives on.
    Refused(String),
    /// Nothing more is to be expected of it.
    Lost(String),
}

impl From<Failure> for After {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused { message, .. } => After::Refused(message),
            Failure::TooLarge(_) => After::Refused(failure.to_string()),
            Failure::TimedOut(_) | Failure::Lost(_) | Failure::Undecodable(_) => {
                After::Lost(failure.to_string())
            }
        }
    }
}
