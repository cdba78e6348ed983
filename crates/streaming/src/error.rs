//! What can go wrong outside of a session.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What an error means to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The request, or the configuration, is wrong.
    Invalid,
    /// Too many requests are waiting for their clients.
    Exhausted,
    /// The server does not listen.
    Unavailable,
    /// Everything else.
    Broken,
}

/// Why there is no server, or no URL.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on.
    #[error("cannot listen for streams on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the kernel answered.
        source: io::Error,
    },
    /// A certificate or key cannot be read, or is none.
    #[error("cannot use {} for the streaming server: {why}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A request that names nothing to do, or contradicts itself.
    #[error("{0}")]
    Request(&'static str),
    /// Too many tokens are outstanding.
    #[error("{0} streaming requests wait for their clients: try again in a minute")]
    Tokens(usize),
    /// No randomness for a token.
    #[error("cannot make a token for a streaming request: {0}")]
    Random(io::Error),
}

impl Error {
    /// What sort of failure it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Certificate { .. } | Self::Request(_) => Kind::Invalid,
            Self::Listen { .. } => Kind::Unavailable,
            Self::Tokens(_) => Kind::Exhausted,
            Self::Random(_) => Kind::Broken,
        }
    }
}
