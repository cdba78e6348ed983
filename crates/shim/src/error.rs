//! The error of the command line, and how the errors of a runtime go over the wire.

use std::io::ErrorKind;
use std::path::PathBuf;

use berth_process::Kind;
use ttrpc::Code;

/// A result of the kit.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a command of the shim failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// A file or socket did not do what was asked.
    #[error("cannot {attempted} {}: {source}", path.display())]
    File {
        /// A verb phrase.
        attempted: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system answered.
        source: std::io::Error,
    },
    /// The pod's shim is gone.
    #[error("the shim of pod {pod} does not answer at {address}: start it for the pod first")]
    NoShim {
        /// The pod.
        pod: String,
        /// Where it should be.
        address: String,
    },
    /// The server did not come up.
    #[error("the shim's server did not start: {0}")]
    Server(String),
    /// The runtime failed.
    #[error(transparent)]
    Process(#[from] berth_process::Error),
    /// A message that cannot be encoded or decoded.
    #[error("cannot read or write a message: {0}")]
    Message(#[from] protobuf::Error),
    /// The RPC library refused.
    #[error(transparent)]
    Rpc(#[from] ttrpc::Error),
}

impl Error {
    pub(crate) fn file(
        attempted: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<std::io::Error>,
    ) -> Self {
        Self::File { attempted, path: path.into(), source: source.into() }
    }

    /// What the failure means to the caller.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Usage(_) | Self::Message(_) => Kind::Invalid,
            Self::NoShim { .. } => Kind::NotFound,
            Self::Process(error) => error.kind(),
            Self::File { source, .. } => match source.kind() {
                // Of fork, EAGAIN says that there may be no more processes.
                ErrorKind::StorageFull | ErrorKind::OutOfMemory | ErrorKind::WouldBlock => {
                    Kind::Exhausted
                }
                _ => Kind::Broken,
            },
            Self::Server(_) | Self::Rpc(_) => Kind::Broken,
        }
    }
}

/// The wire form of a runtime's error: the kind as the code, the text as the message.
pub(crate) fn to_wire(error: &berth_process::Error) -> ttrpc::Error {
    status(code(error.kind()), error.to_string())
}

/// An error made by the kit itself.
pub(crate) fn status(code: Code, message: impl ToString) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(ttrpc::get_status(code, message))
}

fn code(kind: Kind) -> Code {
    match kind {
        Kind::Invalid => Code::INVALID_ARGUMENT,
        Kind::NotFound => Code::NOT_FOUND,
        Kind::Exists => Code::ALREADY_EXISTS,
        Kind::WrongState => Code::FAILED_PRECONDITION,
        Kind::TimedOut => Code::DEADLINE_EXCEEDED,
        Kind::Unimplemented => Code::UNIMPLEMENTED,
        Kind::Exhausted => Code::RESOURCE_EXHAUSTED,
        Kind::Unavailable => Code::UNAVAILABLE,
        Kind::Broken => Code::INTERNAL,
    }
}
