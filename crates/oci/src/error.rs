//! Why a spec could not be made.

use berth_pod::Kind;

/// Why a spec could not be made. Each text says what was asked, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The request itself is wrong.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field of the request.
        field: String,
        /// What is wrong with it and what would be right.
        problem: String,
    },
    /// This node, its kernel or the handler cannot do what was asked.
    #[error("{field}: {problem}")]
    Unsupported {
        /// The field of the request.
        field: String,
        /// What is missing and what to do.
        problem: String,
    },
    /// The caller left out something that the request needs: a fault of Berth.
    #[error("internal: {0}")]
    Missing(String),
}

impl Error {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Invalid { .. } => Kind::Invalid,
            Self::Unsupported { .. } => Kind::Unimplemented,
            Self::Missing(_) => Kind::Broken,
        }
    }

    pub(crate) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), problem: problem.into() }
    }

    pub(crate) fn unsupported(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Unsupported { field: field.into(), problem: problem.into() }
    }
}
