//! What went wrong, on what, at which stage.

use berth_pod::Kind;

/// A failure of a call: its kind, and a text that says what was attempted, on what, and why not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: Kind,
    message: String,
}

impl Error {
    /// A failure of this kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// What sort of failure it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}
