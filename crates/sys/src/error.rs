//! The one error of this crate: what was attempted, on what, and what the kernel said.

use std::io;
use std::path::Path;

use crate::spawn::Stage;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a failed call means to a caller that has to decide what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An argument can never work (EINVAL, ENAMETOOLONG, a NUL byte in a path, ...).
    Invalid,
    /// What was named is not there (ENOENT, ENOTDIR, ESRCH, ENODEV, ENXIO, ECHILD).
    NotFound,
    /// What was to be made is there already (EEXIST).
    Exists,
    /// It is in use now; the same call may succeed later (EBUSY, EAGAIN, ENOTEMPTY, ETXTBSY).
    Busy,
    /// A deadline passed (ETIMEDOUT).
    TimedOut,
    /// This process may not do it (EPERM, EACCES).
    Denied,
    /// The file system takes no writes (EROFS).
    ReadOnly,
    /// This kernel cannot do it (ENOSYS, EOPNOTSUPP).
    Unimplemented,
    /// A limit of the machine is reached (ENOSPC, EDQUOT, ENOMEM, EMFILE, ENFILE).
    Exhausted,
    /// Anything else: the file system or the kernel is not in order.
    Broken,
}

/// A failed call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("cannot {attempted} {on}: {source}")]
    Call {
        /// What was attempted, as a verb phrase ("mount overlay on").
        attempted: &'static str,
        /// The path, process or descriptor it was attempted on.
        on: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// A child process could not be brought to its exec.
    #[error("cannot start {program}: {stage}{detail}: {source}")]
    Spawn {
        /// The program that was to run.
        program: String,
        /// How far the child came.
        stage: Stage,
        /// On what, where the stage has more than one object (a path, with a space before it).
        detail: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// An argument that no kernel would accept.
    #[error("{what} {value:?}: {reason}")]
    Argument {
        /// Which argument.
        what: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file of the kernel that does not read as its documentation says.
    #[error("{file}: cannot read {text:?}: {reason}")]
    Malformed {
        /// The file.
        file: String,
        /// The text that was found.
        text: String,
        /// What was expected.
        reason: &'static str,
    },
}

impl Error {
    /// Builds the error of a failed call on a path.
    pub(crate) fn path(
        attempted: &'static str,
        on: impl AsRef<Path>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Call { attempted, on: on.as_ref().display().to_string(), source: source.into() }
    }

    /// Builds the error of a failed call on something that is not a path.
    pub(crate) fn on(
        attempted: &'static str,
        on: impl std::fmt::Display,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Call { attempted, on: on.to_string(), source: source.into() }
    }

    /// The error number, where a system call answered with one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Call { source, .. } | Self::Spawn { source, .. } => source.raw_os_error(),
            Self::Argument { .. } | Self::Malformed { .. } => None,
        }
    }

    /// What the failure means to the caller.
    pub fn kind(&self) -> Kind {
        match self {
            // Of fork, EAGAIN says that there may be no more processes.
            Self::Spawn { source, .. } if source.raw_os_error() == Some(libc::EAGAIN) => {
                Kind::Exhausted
            }
            Self::Call { source, .. } | Self::Spawn { source, .. } => kind_of(source),
            Self::Argument { .. } => Kind::Invalid,
            Self::Malformed { .. } => Kind::Broken,
        }
    }

    /// True if what was named does not exist (any more).
    pub fn is_not_found(&self) -> bool {
        self.kind() == Kind::NotFound
    }
}

/// What an error of the operating system means; for crates with an error of their own.
pub fn kind_of(source: &io::Error) -> Kind {
    let Some(errno) = source.raw_os_error() else {
        return match source.kind() {
            io::ErrorKind::NotFound => Kind::NotFound,
            io::ErrorKind::InvalidInput => Kind::Invalid,
            _ => Kind::Broken,
        };
    };
    match errno {
        libc::EINVAL
        | libc::ENAMETOOLONG
        | libc::E2BIG
        | libc::ENOEXEC
        | libc::EISDIR
        | libc::ELOOP
        | libc::EXDEV
        | libc::ERANGE => Kind::Invalid,
        libc::ENOENT
        | libc::ENOTDIR
        | libc::ESRCH
        | libc::ENODEV
        | libc::ENXIO
        | libc::ECHILD
        | libc::ENODATA => Kind::NotFound,
        libc::EEXIST => Kind::Exists,
        libc::EBUSY | libc::EAGAIN | libc::ENOTEMPTY | libc::ETXTBSY => Kind::Busy,
        libc::ETIMEDOUT => Kind::TimedOut,
        libc::EPERM | libc::EACCES => Kind::Denied,
        libc::EROFS => Kind::ReadOnly,
        libc::ENOSYS | libc::EOPNOTSUPP => Kind::Unimplemented,
        libc::ENOSPC | libc::EDQUOT | libc::ENOMEM | libc::EMFILE | libc::ENFILE => Kind::Exhausted,
        _ => Kind::Broken,
    }
}

/// Adds what was attempted to the bare answer of the kernel.
pub(crate) trait Attempt<T> {
    /// Names the path the call was made on.
    fn on_path(self, attempted: &'static str, path: impl AsRef<Path>) -> Result<T>;
    /// Names the process, descriptor or setting the call was made on.
    fn on_thing(self, attempted: &'static str, on: impl std::fmt::Display) -> Result<T>;
}

impl<T, E: Into<io::Error>> Attempt<T> for std::result::Result<T, E> {
    fn on_path(self, attempted: &'static str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|source| Error::path(attempted, path, source))
    }

    fn on_thing(self, attempted: &'static str, on: impl std::fmt::Display) -> Result<T> {
        self.map_err(|source| Error::on(attempted, on, source))
    }
}
