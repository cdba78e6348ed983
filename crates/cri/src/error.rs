//! Errors of the services, and the one place where their kinds become gRPC codes.
//!
//! | kind | code | | kind | code |
//! |---|---|---|---|---|
//! | Invalid | InvalidArgument | | Cancelled | Cancelled |
//! | NotFound | NotFound | | Unavailable | Unavailable |
//! | Exists | AlreadyExists | | Unimplemented | Unimplemented |
//! | WrongState | FailedPrecondition | | Exhausted | ResourceExhausted |
//! | Busy | Aborted | | Broken | Internal |
//! | TimedOut | DeadlineExceeded | | Denied | PermissionDenied |

use berth_pod::Kind;
use tonic::{Code, Status};

use crate::admit::Refusal;

/// Why a call fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The message was not admitted.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The pod or container could not be brought there.
    #[error(transparent)]
    Lifecycle(#[from] berth_lifecycle::Error),
    /// The image could not be.
    #[error(transparent)]
    Image(#[from] berth_image::Error),
    /// A request without the id that it is about.
    #[error("{0} is missing: say which one is meant")]
    NoId(&'static str),
    /// A number of seconds that is none.
    #[error("{field} is {value}: give 0 or more seconds")]
    Negative {
        /// The field.
        field: &'static str,
        /// What it said.
        value: i64,
    },
    /// A path that does not begin at the root.
    #[error("{field} is {path:?}: give an absolute path")]
    Relative {
        /// The field.
        field: &'static str,
        /// What it said.
        path: String,
    },
    /// Containers are not made of such checkpoints.
    #[error("no container is made of the checkpoint {what}: set checkpoints.{key} to allow it")]
    NoRestore {
        /// The archive or image.
        what: String,
        /// What the configuration has for that.
        key: &'static str,
    },
    /// The image of a checkpoint is not there, and cannot be pulled.
    #[error(
        "the checkpoint {checkpoint} is of a container of the image {images}: pull that first ({why})"
    )]
    NoBase {
        /// The archive or image.
        checkpoint: String,
        /// What the image is known by.
        images: String,
        /// Why it is not here.
        why: String,
    },
    /// What a client is to find cannot be offered.
    #[error(transparent)]
    Streaming(#[from] berth_streaming::Error),
    /// There is no server for streams.
    #[error("there is no streaming server: {0}")]
    NoStreaming(String),
    /// A number that is no port's.
    #[error("port is {0}: give ports from 1 to 65535")]
    Port(i32),
    /// A part of CRI that this version of Berth does not have.
    #[error("{0} is not implemented in this version of Berth")]
    Unimplemented(&'static str),
    /// The pod CIDR was not taken.
    #[error("runtime_config.network_config.pod_cidr is {cidr:?}: {why}")]
    PodCidr {
        /// What was sent.
        cidr: String,
        /// Why not.
        why: String,
    },
    /// The daemon is going down, or a task of its own died.
    #[error("the daemon dropped the work on {0}: try again")]
    Dropped(&'static str),
}

impl Error {
    /// What sort of failure it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Refused(_)
            | Self::NoId(_)
            | Self::Negative { .. }
            | Self::Relative { .. }
            | Self::Port(_)
            | Self::PodCidr { .. } => Kind::Invalid,
            Self::NoRestore { .. } => Kind::Denied,
            Self::NoBase { .. } => Kind::NotFound,
            Self::Lifecycle(error) => error.kind(),
            Self::Image(error) => of_image(error.kind()),
            Self::Unimplemented(_) => Kind::Unimplemented,
            Self::Streaming(error) => match error.kind() {
                berth_streaming::Kind::Invalid => Kind::Invalid,
                berth_streaming::Kind::Exhausted => Kind::Exhausted,
                berth_streaming::Kind::Unavailable => Kind::Unavailable,
                berth_streaming::Kind::Broken => Kind::Broken,
            },
            Self::Dropped(_) | Self::NoStreaming(_) => Kind::Unavailable,
        }
    }
}

fn of_image(kind: berth_image::Kind) -> Kind {
    use berth_image::Kind as Image;
    match kind {
        Image::Invalid => Kind::Invalid,
        Image::Unauthorized => Kind::Denied,
        Image::NotFound => Kind::NotFound,
        Image::Busy => Kind::Busy,
        Image::TimedOut => Kind::TimedOut,
        Image::Cancelled => Kind::Cancelled,
        Image::Unavailable => Kind::Unavailable,
        Image::Unimplemented => Kind::Unimplemented,
        Image::Exhausted => Kind::Exhausted,
        Image::Broken => Kind::Broken,
    }
}

/// The gRPC code of a kind of failure.
///
/// Busy is Aborted and not Unavailable: gRPC clients repeat the latter by themselves and take it
/// for a lost connection, while Busy is for the caller to decide.
pub fn code_of(kind: Kind) -> Code {
    match kind {
        Kind::Invalid => Code::InvalidArgument,
        Kind::NotFound => Code::NotFound,
        Kind::Exists => Code::AlreadyExists,
        Kind::WrongState => Code::FailedPrecondition,
        Kind::Busy => Code::Aborted,
        Kind::TimedOut => Code::DeadlineExceeded,
        Kind::Cancelled => Code::Cancelled,
        Kind::Denied => Code::PermissionDenied,
        Kind::Unavailable => Code::Unavailable,
        Kind::Unimplemented => Code::Unimplemented,
        Kind::Exhausted => Code::ResourceExhausted,
        Kind::Broken => Code::Internal,
    }
}

/// The longest message of a status. It travels in a header, where a byte may become three, and
/// clients give up the whole connection for headers of more than 16 KiB.
const LONGEST_MESSAGE: usize = 4096;

/// A status whose message fits into its header. Every status is made here.
pub fn status(code: Code, message: &str) -> Status {
    Status::new(code, clip(message, LONGEST_MESSAGE))
}

/// At most about `limit` bytes of a text: its middle gives way, for its end says what to do.
pub(crate) fn clip(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let head = text.floor_char_boundary(limit / 2);
    let tail = text.ceil_char_boundary(text.len() - limit / 3);
    format!("{} … {} bytes left out … {}", &text[..head], tail - head, &text[tail..])
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        status(code_of(error.kind()), &error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_implemented_says_exactly_so() {
        // The kubelet asks for this very code before it falls back.
        let status = Status::from(Error::Unimplemented("UpdatePodSandboxResources"));
        assert_eq!(status.code(), Code::Unimplemented);
        assert!(status.message().contains("UpdatePodSandboxResources"));
    }

    #[test]
    fn a_message_fits_into_its_header_and_keeps_its_end() {
        let long = format!("sandbox {:?} is not there", "ä\0".repeat(1 << 20));
        let status = status(Code::NotFound, &long);
        assert!(status.message().len() <= LONGEST_MESSAGE);
        assert!(status.message().starts_with("sandbox \"ä"));
        assert!(status.message().ends_with("is not there"));
        let headers = status.into_http::<()>().headers().clone();
        let size: usize = headers.iter().map(|(k, v)| k.as_str().len() + v.len() + 32).sum();
        assert!(size < 16 << 10, "{size}");
    }

    #[test]
    fn a_failure_of_the_lifecycle_keeps_its_kind_and_text() {
        let failed = berth_lifecycle::Error::new(Kind::WrongState, "sandbox 1a is stopped");
        let status = Status::from(Error::from(failed));
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(status.message(), "sandbox 1a is stopped");
    }
}
