//! What can go wrong with a cgroup.

use std::io;
use std::path::{Path, PathBuf};

use berth_sys::Kind;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that is no cgroup of ours.
    #[error("cgroup name {name:?}: {reason}")]
    Path {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No cgroup file system is mounted.
    #[error("no cgroup file system is mounted; mount cgroup2 on /sys/fs/cgroup")]
    NoHierarchy,
    /// A file of the kernel could not be read or written.
    #[error("cannot {attempted} {}: {source}", path.display())]
    File {
        /// What was attempted ("read", "write \"100000\" to").
        attempted: String,
        /// The file or directory.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// A file of the kernel that does not read as documented.
    #[error("{}: cannot read {text:?}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it says.
        text: String,
    },
    /// This machine cannot do it.
    #[error("{what} is not possible on this machine: {reason}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// Which controller or file is missing.
        reason: &'static str,
    },
    /// The calling process is a member: it would stop or kill itself.
    #[error("this process (pid {pid}) is itself in cgroup {name}")]
    Own {
        /// The cgroup.
        name: String,
        /// The caller.
        pid: i32,
    },
    /// It could not be emptied for removal.
    #[error("cgroup {} still has processes: {who}", path.display())]
    Populated {
        /// Its directory.
        path: PathBuf,
        /// Who is in it.
        who: String,
    },
    /// The bus over which systemd is reached is not there, or broke off.
    #[error("cannot speak to systemd over {}: {source}; the systemd driver needs dbus", socket.display())]
    Bus {
        /// Its socket.
        socket: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// systemd does not do it.
    #[error("systemd does not {attempted} {unit}: {name} {text}")]
    Unit {
        /// What was attempted ("start").
        attempted: &'static str,
        /// With which unit.
        unit: String,
        /// The error's name, or the job's result.
        name: String,
        /// What systemd says.
        text: String,
    },
    /// A call of the system layer failed.
    #[error(transparent)]
    System(#[from] berth_sys::Error),
}

impl Error {
    pub(crate) fn file(
        attempted: impl Into<String>,
        path: impl AsRef<Path>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::File {
            attempted: attempted.into(),
            path: path.as_ref().to_owned(),
            source: source.into(),
        }
    }

    /// What it means to the caller.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Path { .. } | Self::Own { .. } => Kind::Invalid,
            Self::NoHierarchy | Self::Unsupported { .. } => Kind::Unimplemented,
            Self::File { source, .. } => berth_sys::kind_of(source),
            Self::Bus { source, .. } if source.kind() == io::ErrorKind::WouldBlock => {
                Kind::TimedOut
            }
            Self::Bus { .. } | Self::Malformed { .. } | Self::Unit { .. } => Kind::Broken,
            Self::Populated { .. } => Kind::Busy,
            Self::System(error) => error.kind(),
        }
    }

    /// True if the cgroup (or this file of it) does not exist.
    pub fn is_not_found(&self) -> bool {
        self.kind() == Kind::NotFound
    }
}
