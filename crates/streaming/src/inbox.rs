//! Bytes on their way from the client to whoever reads them: a buffer with a bound.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// How much a stream holds before its session stops reading from the client. It is SPDY's initial window, so
/// a client that keeps to that never makes other streams wait.
pub(crate) const HELD: usize = 64 << 10;

/// What is told of each byte that was read or will not be.
pub(crate) type Credit = Box<dyn Fn(usize) + Send + Sync>;

/// Makes the two ends of a stream. `credit` is called with the number of bytes that left the buffer.
pub(crate) fn inbox(credit: Option<Credit>) -> (Feed, Inbox) {
    let shared = Arc::new(Shared { state: Mutex::default(), credit });
    (Feed(shared.clone()), Inbox(shared))
}

/// The session's end.
#[derive(Clone)]
pub(crate) struct Feed(Arc<Shared>);

/// The reader's end. Dropping it lets the rest be thrown away as it comes.
pub(crate) struct Inbox(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    credit: Option<Credit>,
}

#[derive(Default)]
struct State {
    bytes: VecDeque<u8>,
    end: Option<End>,
    abandoned: bool,
    reader: Option<Waker>,
    feeder: Option<Waker>,
}

#[derive(Clone, Copy)]
enum End {
    Finished,
    Broken,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn credit(&self, count: usize) {
        if let (Some(credit), 1..) = (&self.credit, count) {
            credit(count);
        }
    }

    fn end(&self, end: End) {
        let mut state = self.state();
        state.end.get_or_insert(end);
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
        if let Some(feeder) = state.feeder.take() {
            feeder.wake();
        }
    }
}

impl Feed {
    /// Waits until the reader has caught up.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.state();
        if state.bytes.len() < HELD || state.abandoned || state.end.is_some() {
            return Poll::Ready(());
        }
        state.feeder = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Gives bytes to the reader. What comes after the end, or to nobody, is credited at once.
    pub(crate) fn push(&self, bytes: &[u8]) {
        let mut state = self.0.state();
        if state.abandoned || state.end.is_some() {
            drop(state);
            return self.0.credit(bytes.len());
        }
        state.bytes.extend(bytes);
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }

    /// Says that the client sends no more.
    pub(crate) fn finish(&self) {
        self.0.end(End::Finished);
    }

    /// Says that the rest is lost: the reader gets an error after what is there.
    pub(crate) fn break_off(&self) {
        self.0.end(End::Broken);
    }
}

impl AsyncRead for Inbox {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = {
            let mut state = self.0.state();
            ready!(state.poll_bytes(cx))?;
            let (front, _) = state.bytes.as_slices();
            let count = front.len().min(into.remaining());
            into.put_slice(&front[..count]);
            state.bytes.drain(..count);
            if state.bytes.is_empty() && state.end.is_some() {
                state.bytes = VecDeque::new();
            }
            if let (Some(feeder), true) = (&state.feeder, state.bytes.len() < HELD) {
                feeder.wake_by_ref();
                state.feeder = None;
            }
            count
        };
        self.0.credit(read);
        Poll::Ready(Ok(()))
    }
}

impl State {
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match (self.bytes.is_empty(), self.end) {
            (false, _) | (true, Some(End::Finished)) => Poll::Ready(Ok(())),
            (true, Some(End::Broken)) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            (true, None) => {
                self.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.abandoned = true;
        let rest = std::mem::take(&mut state.bytes);
        if let Some(feeder) = state.feeder.take() {
            feeder.wake();
        }
        drop(state);
        self.0.credit(rest.len());
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::AsyncReadExt as _;

    use super::*;

    fn counted() -> (Feed, Inbox, Arc<AtomicUsize>) {
        let count = Arc::new(AtomicUsize::new(0));
        let counter = count.clone();
        let (feed, inbox) = inbox(Some(Box::new(move |more| {
            counter.fetch_add(more, Ordering::Relaxed);
        })));
        (feed, inbox, count)
    }

    #[tokio::test]
    async fn what_is_pushed_is_read_to_the_end() {
        let (feed, mut inbox, count) = counted();
        feed.push(b"one ");
        feed.push(b"two");
        feed.finish();
        feed.push(b"late");
        let mut text = String::new();
        inbox.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "one two");
        assert_eq!(count.load(Ordering::Relaxed), "one two".len() + "late".len());
    }

    #[tokio::test]
    async fn what_is_broken_off_fails_after_what_came() {
        let (feed, mut inbox, _) = counted();
        feed.push(b"one");
        feed.break_off();
        let mut bytes = Vec::new();
        let error = inbox.read_to_end(&mut bytes).await.unwrap_err();
        assert_eq!(
            (bytes.as_slice(), error.kind()),
            (b"one".as_slice(), io::ErrorKind::ConnectionReset)
        );
    }

    #[tokio::test]
    async fn a_full_stream_waits_for_its_reader() {
        let (feed, mut inbox, _) = counted();
        feed.push(&[0; HELD]);
        let feeder = tokio::spawn(async move { poll_fn(|cx| feed.poll_room(cx)).await });
        tokio::task::yield_now().await;
        assert!(!feeder.is_finished());
        inbox.read_u8().await.unwrap();
        feeder.await.unwrap();
    }

    #[tokio::test]
    async fn nobody_waits_for_a_reader_that_is_gone() {
        let (feed, inbox, count) = counted();
        feed.push(&[0; HELD]);
        let other = feed.clone();
        let feeder = tokio::spawn(async move { poll_fn(|cx| other.poll_room(cx)).await });
        tokio::task::yield_now().await;
        drop(inbox);
        feeder.await.unwrap();
        feed.push(b"x");
        assert_eq!(count.load(Ordering::Relaxed), HELD + 1);
    }
}
