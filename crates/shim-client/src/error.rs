//! What can go wrong with a shim, and what kind of failure each is.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use ttrpc::proto::Code;

/// What sort of failure an error is, whatever its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request is wrong.
    Invalid,
    /// The task, process or sandbox is not there.
    NotFound,
    /// It is there already.
    Exists,
    /// It is not in a state in which this can be done.
    WrongState,
    /// The deadline passed.
    TimedOut,
    /// The shim gave the call up.
    Cancelled,
    /// The shim cannot be reached, or was lost during the call.
    Unavailable,
    /// The shim does not have this service or call.
    Unimplemented,
    /// The shim ran out of something.
    Exhausted,
    /// Everything else.
    Broken,
}

/// A failure, with what was attempted and on what.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A runtime type that names no shim.
    #[error("runtime type {runtime:?}: {problem}")]
    RuntimeType {
        /// The type as configured.
        runtime: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The shim's executable was not found.
    #[error("shim {binary} is missing: looked in {searched}")]
    Missing {
        /// Its file name or path.
        binary: String,
        /// The directories, in order.
        searched: String,
    },
    /// The shim's executable could not be run, or took too long.
    #[error("{} {action}: {source}", binary.display())]
    Run {
        /// The executable.
        binary: PathBuf,
        /// `start` or `delete`.
        action: &'static str,
        /// Why not.
        source: Box<berth_job::Error>,
    },
    /// The shim's executable reported failure.
    #[error("{} {action} {how}: {said}", binary.display())]
    Failed {
        /// The executable.
        binary: PathBuf,
        /// `start` or `delete`.
        action: &'static str,
        /// How it ended.
        how: berth_sys::spawn::Exit,
        /// The end of what it printed.
        said: String,
    },
    /// A file of the bundle could not be read or made.
    #[error("{action} {}: {source}", path.display())]
    Bundle {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// What `start` or `delete` printed makes no sense.
    #[error("the shim's answer: {problem}")]
    Answer {
        /// What is wrong, with an excerpt.
        problem: String,
    },
    /// An address that cannot be dialled.
    #[error("shim address {address:?}: {problem}")]
    Address {
        /// The address.
        address: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The shim's socket does not answer.
    #[error("cannot connect to the shim at {address}: {source}")]
    Dial {
        /// The address.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// The shim answered with an error.
    #[error("shim: {call} of {id}: {message}")]
    Refused {
        /// The call.
        call: &'static str,
        /// The task or sandbox.
        id: String,
        /// The ttrpc code, as a kind.
        kind: Kind,
        /// The shim's words.
        message: String,
    },
    /// The shim did not answer in time. The call may yet take effect.
    #[error("shim: {call} of {id} was not answered within {after:?}")]
    TimedOut {
        /// The call.
        call: &'static str,
        /// The task or sandbox.
        id: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The connection was lost. The call may have taken effect.
    #[error("shim: {call} of {id}: the connection is lost: {why}")]
    Lost {
        /// The call.
        call: &'static str,
        /// The task or sandbox.
        id: String,
        /// How it was lost.
        why: String,
    },
    /// The shim's reply cannot be decoded.
    #[error("shim: {call} of {id}: its reply cannot be decoded: {why}")]
    Reply {
        /// The call.
        call: &'static str,
        /// The task or sandbox.
        id: String,
        /// Why not.
        why: String,
    },
    /// The request cannot be sent.
    #[error("shim: {call} of {id}: {why}")]
    Request {
        /// The call.
        call: &'static str,
        /// The task or sandbox.
        id: String,
        /// Why not.
        why: String,
    },
    /// The shim's process cannot be told for certain.
    #[error("the shim's process {pid}: {why}")]
    Process {
        /// Its pid.
        pid: u32,
        /// Why not.
        why: String,
    },
}

impl Error {
    /// What sort of failure this is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Error::RuntimeType { .. } | Error::Request { .. } => Kind::Invalid,
            Error::Missing { .. } | Error::Dial { .. } | Error::Lost { .. } => Kind::Unavailable,
            Error::Refused { kind, .. } => *kind,
            Error::TimedOut { .. } => Kind::TimedOut,
            Error::Run { source, .. } => run_kind(source.kind()),
            Error::Bundle { source, .. } => file_kind(source),
            // EX_OSERR of sysexits.h: it could not fork, or the like.
            Error::Failed { how: berth_sys::spawn::Exit::Code(71), .. } => Kind::Exhausted,
            Error::Failed { .. }
            | Error::Answer { .. }
            | Error::Address { .. }
            | Error::Reply { .. }
            | Error::Process { .. } => Kind::Broken,
        }
    }
}

fn run_kind(kind: berth_sys::Kind) -> Kind {
    match kind {
        berth_sys::Kind::TimedOut => Kind::TimedOut,
        berth_sys::Kind::Exhausted => Kind::Exhausted,
        // The executable is missing, or is none: that can be mended.
        berth_sys::Kind::NotFound
        | berth_sys::Kind::Denied
        | berth_sys::Kind::Invalid
        | berth_sys::Kind::ReadOnly => Kind::Unavailable,
        _ => Kind::Broken,
    }
}

/// A file of a bundle: a full disk and a read-only one can be mended as well.
fn file_kind(source: &io::Error) -> Kind {
    match berth_sys::kind_of(source) {
        berth_sys::Kind::Exhausted => Kind::Exhausted,
        berth_sys::Kind::ReadOnly => Kind::Unavailable,
        _ => Kind::Broken,
    }
}

/// What a ttrpc code means; the codes are those of gRPC.
pub(crate) fn kind_of(code: Code) -> Kind {
    match code {
        Code::CANCELLED => Kind::Cancelled,
        Code::INVALID_ARGUMENT => Kind::Invalid,
        Code::DEADLINE_EXCEEDED => Kind::TimedOut,
        Code::NOT_FOUND => Kind::NotFound,
        Code::ALREADY_EXISTS => Kind::Exists,
        Code::RESOURCE_EXHAUSTED => Kind::Exhausted,
        Code::FAILED_PRECONDITION | Code::ABORTED | Code::OUT_OF_RANGE => Kind::WrongState,
        Code::UNIMPLEMENTED => Kind::Unimplemented,
        Code::UNAVAILABLE => Kind::Unavailable,
        Code::OK
        | Code::UNKNOWN
        | Code::PERMISSION_DENIED
        | Code::UNAUTHENTICATED
        | Code::INTERNAL
        | Code::DATA_LOSS => Kind::Broken,
    }
}
