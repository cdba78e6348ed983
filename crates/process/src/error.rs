//! The one error of this crate.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a failure means to a caller who has to decide what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request can never work.
    Invalid,
    /// What was named is not there.
    NotFound,
    /// It is there already.
    Exists,
    /// It is there, but not in a state that allows this.
    WrongState,
    /// A deadline passed.
    TimedOut,
    /// This runtime or kernel cannot do it.
    Unimplemented,
    /// A limit of the machine is reached.
    Exhausted,
    /// Anything else.
    Broken,
}

/// What was attempted, on what, and what came of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller asked for something that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// No such container or exec.
    #[error("{what} {id} not found")]
    NotFound {
        /// "container" or "exec".
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// A container or exec of this id is there already.
    #[error("{what} {id} already exists")]
    Exists {
        /// "container" or "exec".
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// The state forbids it.
    #[error("cannot {attempted} {id}: {state}")]
    WrongState {
        /// A verb.
        attempted: &'static str,
        /// Of what.
        id: String,
        /// Why not.
        state: String,
    },
    /// A file or descriptor did not do what was asked.
    #[error("cannot {attempted} {}: {source}", path.display())]
    File {
        /// A verb phrase.
        attempted: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// JSON that cannot be read.
    #[error("{what} cannot be read: {source}")]
    Json {
        /// Which document.
        what: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] berth_sys::Error),
    /// A cgroup did not do what was asked.
    #[error(transparent)]
    Cgroup(#[from] berth_cgroup::Error),
    /// The OCI runtime failed.
    #[error("{runtime} {verb} {id} failed: {message}")]
    Runtime {
        /// The runtime's path.
        runtime: String,
        /// Its subcommand.
        verb: &'static str,
        /// The container.
        id: String,
        /// The runtime's own last message.
        message: String,
    },
    /// Something took longer than it may.
    #[error("{what} {id}: not done within {} s", limit.as_secs())]
    TimedOut {
        /// What was attempted.
        what: &'static str,
        /// On what.
        id: String,
        /// The deadline.
        limit: Duration,
    },
    /// The log cannot be where it is to be: a directory is a file, or the other way round.
    #[error("open log {}: {source}: log_directory must be a directory, and log_path a file in it", path.display())]
    LogPlace {
        /// The log.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Processes that do not die.
    #[error("{id}: its processes do not go away: {who}")]
    Undying {
        /// The container.
        id: String,
        /// Who remains: pid, state, where it waits.
        who: String,
    },
    /// This runtime cannot do it.
    #[error("{0}")]
    Unimplemented(String),
}

impl Error {
    /// What the failure means to the caller.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Invalid(_) | Self::Json { .. } | Self::LogPlace { .. } => Kind::Invalid,
            Self::NotFound { .. } => Kind::NotFound,
            Self::Exists { .. } => Kind::Exists,
            Self::WrongState { .. } => Kind::WrongState,
            Self::File { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => Kind::NotFound,
                io::ErrorKind::StorageFull | io::ErrorKind::OutOfMemory => Kind::Exhausted,
                io::ErrorKind::TimedOut => Kind::TimedOut,
                _ => Kind::Broken,
            },
            Self::Kernel(error) => match error.kind() {
                berth_sys::Kind::Invalid => Kind::Invalid,
                berth_sys::Kind::NotFound => Kind::NotFound,
                berth_sys::Kind::TimedOut => Kind::TimedOut,
                berth_sys::Kind::Unimplemented => Kind::Unimplemented,
                berth_sys::Kind::Exhausted => Kind::Exhausted,
                _ => Kind::Broken,
            },
            Self::Cgroup(_) | Self::Runtime { .. } => Kind::Broken,
            Self::TimedOut { .. } => Kind::TimedOut,
            Self::Undying { .. } => Kind::WrongState,
            Self::Unimplemented(_) => Kind::Unimplemented,
        }
    }

    pub(crate) fn file(
        attempted: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::File { attempted, path: path.into(), source: source.into() }
    }

    pub(crate) fn state(
        attempted: &'static str,
        id: impl Into<String>,
        state: impl Into<String>,
    ) -> Self {
        Self::WrongState { attempted, id: id.into(), state: state.into() }
    }
}
