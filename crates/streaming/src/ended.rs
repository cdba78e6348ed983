//! How sessions end.

use std::io;
use std::time::Duration;

use tokio_tungstenite::tungstenite;

use crate::spdy::frame::FrameError;

/// Why a session is over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    #[error("everything was sent")]
    Fine,
    #[error("the client closed the connection")]
    Gone,
    #[error("the connection failed: {0}")]
    Connection(#[from] io::Error),
    #[error("the WebSocket connection failed: {0}")]
    WebSocket(Box<tungstenite::Error>),
    #[error("the client did nothing for {0:?}")]
    Idle(Duration),
    #[error("the client broke the protocol: {0}")]
    Frame(#[from] FrameError),
    #[error("the client broke the protocol: it opened stream {0}, which does not come next")]
    Misnumbered(u32),
    #[error("the client broke the protocol: it opened a window beyond its largest size")]
    Window,
    #[error("the client broke the protocol: a message for channel {0} is not base64")]
    Base64(u8),
    #[error("the client broke the protocol: it closed a channel without naming one")]
    Close,
}

impl Ended {
    /// Whether the client still listens, and ought to be told.
    pub(crate) fn is_protocol(&self) -> bool {
        matches!(self, Self::Frame(_) | Self::Misnumbered(_) | Self::Window)
    }
}

impl From<tungstenite::Error> for Ended {
    fn from(error: tungstenite::Error) -> Self {
        match error {
            tungstenite::Error::ConnectionClosed => Self::Gone,
            tungstenite::Error::Io(error) => Self::Connection(error),
            error => Self::WebSocket(Box::new(error)),
        }
    }
}

/// Handles a session's streams while `drive` moves them. A client that goes away ends both at once; when all
/// is handled, what is queued is still sent.
pub(crate) async fn together(
    handle: impl Future<Output = ()>,
    drive: impl Future<Output = Ended>,
) -> Ended {
    tokio::pin!(drive);
    tokio::select! {
        ended = &mut drive => ended,
        () = handle => drive.await,
    }
}
