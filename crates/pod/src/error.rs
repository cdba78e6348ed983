//! The kinds of failure: every crate's error has one, and it is mapped once to gRPC and once to
//! ttrpc.

use serde::{Deserialize, Serialize};

/// What sort of failure an error is, whatever its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// The request itself is wrong.
    Invalid,
    /// The thing named is not there.
    NotFound,
    /// The thing named is there already, and differs.
    Exists,
    /// The thing is not in a state in which this can be done.
    WrongState,
    /// Something else holds it; try again.
    Busy,
    /// It took longer than allowed.
    TimedOut,
    /// The caller went away, or another wish overtook it.
    Cancelled,
    /// Somebody else wants other credentials, or refuses these.
    Denied,
    /// A part that is needed does not answer.
    Unavailable,
    /// Berth, or the handler, cannot do this.
    Unimplemented,
    /// No space, descriptors, ids or memory.
    Exhausted,
    /// Everything else.
    Broken,
}
