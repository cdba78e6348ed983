//! Port-forward: each connection has a stream for its bytes and one for what went wrong.

mod channels;
mod pairs;
mod spdy;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::PortForward;
use crate::ended::Ended;
use crate::http::Site;
use crate::inbox::Inbox;
use crate::outbox::Outbox;
use crate::websocket::{self, Codec, Tunnel};

/// How the client talks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Spdy,
    /// SPDY inside of WebSocket.
    Tunnel,
    Channels(Codec),
}

/// Whether the request can be served so; if not, why.
pub(crate) fn check(wanted: &PortForward, transport: Transport) -> Result<(), &'static str> {
    match (transport, wanted.ports.len()) {
        (Transport::Spdy | Transport::Tunnel, _) | (_, 1..=channels::PORTS) => Ok(()),
        (Transport::Channels(_), 0) => {
            Err("WebSocket channels need ports in the request: name them, or use SPDY")
        }
        (Transport::Channels(_), _) => Err("there are channels for 127 ports: name fewer"),
    }
}

/// Serves one client to its end.
pub(crate) async fn serve<T>(io: T, wanted: PortForward, transport: Transport, site: &Site) -> Ended
where
    T: AsyncRead + AsyncWrite + Send + Unpin,
{
    match transport {
        Transport::Spdy => spdy::serve(io, wanted, site).await,
        Transport::Tunnel => {
            let tunnel = Tunnel::new(websocket::open(io).await);
            spdy::serve(tunnel, wanted, site).await
        }
        Transport::Channels(codec) => channels::serve(io, wanted, codec, site).await,
    }
}

/// Both directions of one connection.
struct Connection {
    inbox: Inbox,
    outbox: Outbox,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inbox).poll_read(cx, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.outbox).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.outbox).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.outbox).poll_shutdown(cx)
    }
}
