//! The WebSocket side of a client: the handshake by hand, the frames by tungstenite.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::upgrade::{connect, request, split};

pub(crate) type Socket = WebSocketStream<TcpStream>;

pub(crate) fn headers(protocol: &str) -> [(&str, &str); 5] {
    [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Protocol", protocol),
    ]
}

/// `protocol` may be empty: then none is named.
pub(crate) async fn dial(url: &str, protocol: &str) -> Socket {
    let headers = headers(protocol);
    let named = if protocol.is_empty() { &headers[..4] } else { &headers[..] };
    let (answer, io) = request(connect(url).await, "GET", split(url).1, named).await;
    assert_eq!(answer.status, 101, "{}", answer.head);
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    let agreed = answer.header("sec-websocket-protocol");
    assert_eq!(agreed.unwrap_or_default(), protocol);
    WebSocketStream::from_raw_socket(io, Role::Client, None).await
}

/// What the messages of `socket` carry, as a byte stream. It is gone when its other end is.
pub(crate) fn tunnel(socket: Socket) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let (mut sink, mut stream) = socket.split();
    let (mut read, mut write) = tokio::io::split(ours);
    let receiving = tokio::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            let Message::Binary(bytes) = message else { continue };
            if write.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        let mut bytes = vec![0; 48 << 10];
        while let Ok(count @ 1..) = read.read(&mut bytes).await {
            let message = Message::Binary(bytes[..count].to_vec().into());
            if sink.send(message).await.is_err() {
                break;
            }
        }
        // The connection is cut, as by a client that dies.
        receiving.abort();
    });
    theirs
}
