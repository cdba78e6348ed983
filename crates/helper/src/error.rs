//! What a verb can fail with.

use berth_sys::Kind;

/// A result of a verb.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// A verb that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// There is no such verb.
    #[error(
        "unknown verb {verb:?}; known are namespaces, unpin, stat, unmount, mount, idmap, read, cdi, relabel, changes, pack, discard, peek, unpack, hold and pause"
    )]
    Verb { verb: String },
    /// Stdin does not hold what the verb takes.
    #[error("cannot read the request on stdin: {reason}")]
    Request { reason: String },
    /// The request asks for what must not be.
    #[error("{what} {value:?}: {reason}")]
    Refused { what: &'static str, value: String, reason: &'static str },
    /// The process that makes the namespaces failed.
    #[error("{message}")]
    Below { kind: String, message: String },
    /// A system call failed.
    #[error("cannot {attempted}: {source}")]
    Io { attempted: String, source: std::io::Error },
    /// A call of the system layer failed.
    #[error(transparent)]
    System(#[from] berth_sys::Error),
}

impl Error {
    pub(crate) fn io(attempted: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self::Io { attempted: attempted.into(), source: source.into() }
    }

    /// The name of the kind, as the answer carries it.
    pub(crate) fn kind(&self) -> String {
        let kind = match self {
            Self::Verb { .. } | Self::Request { .. } | Self::Refused { .. } => Kind::Invalid,
            Self::Io { source, .. } => berth_sys::kind_of(source),
            Self::Below { kind, .. } => return kind.clone(),
            Self::System(error) => error.kind(),
        };
        let name = match kind {
            Kind::Invalid => "invalid",
            Kind::NotFound => "not_found",
            Kind::Exists => "exists",
            Kind::Busy => "busy",
            Kind::TimedOut => "timed_out",
            Kind::Denied => "denied",
            Kind::ReadOnly => "read_only",
            Kind::Unimplemented => "unimplemented",
            Kind::Exhausted => "exhausted",
            Kind::Broken => "broken",
        };
        name.to_owned()
    }

    /// `{"error":{"kind":...,"message":...}}`
    pub(crate) fn to_json(&self) -> String {
        let error = serde_json::json!({ "kind": self.kind(), "message": self.to_string() });
        serde_json::json!({ "error": error }).to_string()
    }
}
