//! Bytes on their way to the client: one short queue for all streams of a session.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

/// The largest piece of a stream that is sent at once.
const PIECE: usize = 32 << 10;
/// How many pieces wait for the connection.
const QUEUED: usize = 8;

/// Something for the connection's writer to send.
pub(crate) enum Parcel {
    /// Bytes of a stream.
    Data(u32, Vec<u8>),
    /// No more of a stream.
    End(u32),
    /// A stream that is given up.
    Cancel(u32),
    /// The end of the session.
    Goodbye,
}

/// Whether a stream may be written to: flow control.
pub(crate) trait Gate: Send + Sync {
    /// Waits until some of `wanted` bytes (not 0) may be sent; gives how many. Fails if the client no
    /// longer takes any.
    fn poll_open(
        &self,
        stream: u32,
        wanted: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>>;

    /// Takes up to `wanted` bytes out of what may be sent; 0 if another stream was quicker.
    fn take(&self, stream: u32, wanted: usize) -> usize;
}

/// A connection without flow control but its own.
pub(crate) struct Open;

impl Gate for Open {
    fn poll_open(&self, _: u32, wanted: usize, _: &mut Context<'_>) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(wanted))
    }

    fn take(&self, _: u32, wanted: usize) -> usize {
        wanted
    }
}

/// Makes the queue of a session.
pub(crate) fn queue() -> (mpsc::Sender<Parcel>, mpsc::Receiver<Parcel>) {
    mpsc::channel(QUEUED)
}

/// The writing end of one stream. A write is done when it is queued; shutting down sends the end, dropping
/// does not.
pub(crate) struct Outbox {
    stream: u32,
    queue: PollSender<Parcel>,
    gate: Arc<dyn Gate>,
    ended: bool,
}

impl Outbox {
    pub(crate) fn new(stream: u32, queue: mpsc::Sender<Parcel>, gate: Arc<dyn Gate>) -> Self {
        Self { stream, queue: PollSender::new(queue), gate, ended: false }
    }
}

fn broken<E>(_: E) -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

impl AsyncWrite for Outbox {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wanted = bytes.len().min(PIECE);
        if wanted == 0 {
            return Poll::Ready(Ok(0));
        }
        if self.ended {
            return Poll::Ready(Err(broken(())));
        }
        loop {
            let open = ready!(self.gate.poll_open(self.stream, wanted, cx))?;
            ready!(self.queue.poll_reserve(cx)).map_err(broken)?;
            let count = self.gate.take(self.stream, open);
            if count > 0 {
                let parcel = Parcel::Data(self.stream, bytes[..count].to_vec());
                self.queue.send_item(parcel).map_err(broken)?;
                return Poll::Ready(Ok(count));
            }
            self.queue.abort_send();
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.ended {
            ready!(self.queue.poll_reserve(cx)).map_err(broken)?;
            let parcel = Parcel::End(self.stream);
            self.queue.send_item(parcel).map_err(broken)?;
            self.ended = true;
        }
        Poll::Ready(Ok(()))
    }
}
