//! A client that has sent all that it will, and takes everything.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What was written to a client.
pub(super) type Written = Arc<Mutex<Vec<u8>>>;

/// A connection whose bytes come so many at a time, with a pause after each, and then end.
pub(super) struct Connection<'a> {
    left: &'a [u8],
    piece: usize,
    pause: bool,
    written: Written,
}

impl<'a> Connection<'a> {
    pub(super) fn new(bytes: &'a [u8], piece: usize) -> (Self, Written) {
        let written = Written::default();
        let piece = piece.max(1);
        (Self { left: bytes, piece, pause: false, written: written.clone() }, written)
    }
}

impl AsyncRead for Connection<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.pause = !self.pause;
        if self.pause {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let count = self.left.len().min(self.piece).min(into.remaining());
        let (now, left) = self.left.split_at(count);
        into.put_slice(now);
        self.left = left;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Takes out what was written.
pub(super) fn take(written: &Written) -> Vec<u8> {
    std::mem::take(&mut written.lock().unwrap_or_else(PoisonError::into_inner))
}
