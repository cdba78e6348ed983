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
    /// What it takes is missing or does not take writes now; it may come back.
    Unavailable,
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
    /// A log cannot be opened.
    #[error(transparent)]
    Log(#[from] berth_log::Error),
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] berth_sys::Error),
    /// A cgroup did not do what was asked.
    #[error(transparent)]
    Cgroup(#[from] berth_cgroup::Error),
    /// The OCI runtime cannot be run.
    #[error(
        "cannot run the OCI runtime to {verb} {id}: {source}: install it, or configure another"
    )]
    NoRuntime {
        /// Its subcommand.
        verb: &'static str,
        /// The container.
        id: String,
        /// Where it failed, with the runtime's path.
        source: berth_sys::Error,
    },
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
    /// The OCI runtime failed while a file system that it writes to has no room.
    #[error("{runtime} {verb} {id} failed: {message}; no room is left on {}", full.display())]
    NoRoom {
        /// The runtime's path.
        runtime: String,
        /// Its subcommand.
        verb: &'static str,
        /// The container.
        id: String,
        /// The runtime's own last message.
        message: String,
        /// A directory of that file system.
        full: PathBuf,
    },
    /// The OCI runtime names a process that it did not make.
    #[error(
        "{runtime} {verb} {id} names pid {pid} as its process, which {problem}: \
         it was left alone; check the runtime"
    )]
    Foreign {
        /// The runtime's path.
        runtime: String,
        /// Its subcommand.
        verb: &'static str,
        /// The container.
        id: String,
        /// The pid that it named.
        pid: i32,
        /// Why it cannot be that one.
        problem: &'static str,
    },
    /// Somebody ended it before it was made.
    #[error("{id} was killed while it was being created")]
    Cancelled {
        /// The container.
        id: String,
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
            Self::Invalid(_) | Self::Json { .. } => Kind::Invalid,
            Self::NotFound { .. } => Kind::NotFound,
            Self::Exists { .. } => Kind::Exists,
            Self::WrongState { .. } => Kind::WrongState,
            Self::File { source, .. } => of_file(source),
            Self::Log(error) => match berth_sys::kind_of(&error.source) {
                // What the caller named as a log can be none.
                berth_sys::Kind::NotFound | berth_sys::Kind::Invalid | berth_sys::Kind::Exists => {
                    Kind::Invalid
                }
                _ => of_file(&error.source),
            },
            Self::NoRuntime { source, .. } => match of_kernel(source.kind()) {
                Kind::Exhausted => Kind::Exhausted,
                _ => Kind::Unavailable,
            },
            Self::Kernel(error) => of_kernel(error.kind()),
            Self::Cgroup(error) if error.kind() == berth_sys::Kind::Exhausted => Kind::Exhausted,
            Self::NoRoom { .. } => Kind::Exhausted,
            Self::Cancelled { .. } => Kind::WrongState,
            Self::Cgroup(_) | Self::Runtime { .. } | Self::Foreign { .. } => Kind::Broken,
            Self::TimedOut { .. } => Kind::TimedOut,
            Self::Undying { .. } => Kind::WrongState,
            Self::Unimplemented(_) => Kind::Unimplemented,
        }
    }

    /// A file or descriptor that did not do what was asked.
    pub fn file(
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

/// A file of our own that is not there does not mean that the container is not.
fn of_file(source: &io::Error) -> Kind {
    match of_kernel(berth_sys::kind_of(source)) {
        kind @ (Kind::Exhausted | Kind::TimedOut | Kind::Unavailable) => kind,
        _ => Kind::Broken,
    }
}

fn of_kernel(kind: berth_sys::Kind) -> Kind {
    match kind {
        berth_sys::Kind::Invalid => Kind::Invalid,
        berth_sys::Kind::NotFound => Kind::NotFound,
        berth_sys::Kind::TimedOut => Kind::TimedOut,
        berth_sys::Kind::Unimplemented => Kind::Unimplemented,
        berth_sys::Kind::Exhausted => Kind::Exhausted,
        berth_sys::Kind::ReadOnly => Kind::Unavailable,
        _ => Kind::Broken,
    }
}
