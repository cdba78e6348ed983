//! What can go wrong with a job.

use std::time::Duration;

use berth_sys::Kind;
use berth_sys::spawn::Exit;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A job that did not end as it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be started, watched or reaped.
    #[error(transparent)]
    System(#[from] berth_sys::Error),
    /// The runtime refused a descriptor.
    #[error("cannot watch a descriptor of a child process: {source}")]
    Watch {
        /// What epoll answered.
        source: std::io::Error,
    },
    /// It was killed at its deadline.
    #[error("{program} did not end within {after:?} and was killed{}{}", tail(said), left(remains))]
    TimedOut {
        /// The program.
        program: String,
        /// Its deadline.
        after: Duration,
        /// The last of what it wrote to stderr.
        said: String,
        /// If it could not be seen dead: its pid, state and where in the kernel it waits.
        remains: Option<String>,
    },
    /// It ended, but not with exit code 0 (only from [`crate::Outcome::success`]).
    #[error("{program} {exit}{}", tail(said))]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        exit: Exit,
        /// What it wrote to stderr, or else to stdout.
        said: String,
    },
    /// The async runtime is shutting down.
    #[error("no job can be started: this process is stopping")]
    Stopping,
}

impl Error {
    /// What it means to the caller.
    pub fn kind(&self) -> Kind {
        match self {
            Self::System(error) => error.kind(),
            Self::TimedOut { .. } => Kind::TimedOut,
            Self::Watch { .. } | Self::Failed { .. } | Self::Stopping => Kind::Broken,
        }
    }
}

fn tail(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!("; it said: {said}") }
}

fn left(remains: &Option<String>) -> String {
    remains.as_ref().map(|r| format!("; still there: {r}")).unwrap_or_default()
}
