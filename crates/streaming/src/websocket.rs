//! WebSocket (RFC 6455): channels in messages, or a byte stream in them.

mod channels;
mod tunnel;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

#[cfg(any(test, fuzzing))]
pub(crate) use channels::reread;
pub(crate) use channels::{Channels, Codec};
pub(crate) use tunnel::Tunnel;

/// The largest message. Some clients send all of their input in one.
const MESSAGE: usize = 16 << 20;
/// The buffers of a connection.
const BUFFER: usize = 32 << 10;
/// More than one message that is sent, and than what answers the client's pings.
const WRITE_LIMIT: usize = 256 << 10;

/// Speaks WebSocket over a connection that was upgraded to it.
pub(crate) async fn open<T>(io: T) -> WebSocketStream<T>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER)
        .max_write_buffer_size(WRITE_LIMIT)
        .max_message_size(Some(MESSAGE))
        .max_frame_size(Some(MESSAGE));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}
