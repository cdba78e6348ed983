//! The streams of a session: windows, and which side has ended what.
//!
//! Clients of the Go family (kubectl, kubelet, crictl) neither keep to windows nor ever open one. So ours are
//! kept towards a client from the moment that it shows that it knows windows (WINDOW_UPDATE, or an initial
//! size); others are slowed by the connection itself. And one that sends more than it may is not read from
//! until there is room, instead of being refused.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::frame::{Control, LARGEST_WINDOW, Reset};
use crate::inbox::{Feed, HELD};
use crate::outbox::Gate;

/// How many streams a session has at most.
const STREAMS: usize = 1000;
/// The window of a stream, and of the session, at the beginning.
const WINDOW: i64 = HELD as i64;
/// How much is taken in before the client is given more.
const DUE: u32 = HELD as u32 / 2;

/// The table of a session, shared by its reader, its writer and its streams.
pub(crate) struct Table {
    state: Mutex<State>,
    /// Somebody read enough for [`Table::updates`].
    pub(crate) due: Notify,
    /// The whole session is over.
    pub(crate) over: CancellationToken,
}

struct State {
    streams: HashMap<u32, Entry>,
    last: u32,
    initial: i64,
    session: i64,
    strict: bool,
    received: u32,
    due: Vec<u32>,
}

struct Entry {
    feed: Feed,
    window: i64,
    read: u32,
    /// The client sends no more.
    heard: bool,
    /// We send no more.
    said: bool,
    writer: Option<Waker>,
    gone: CancellationToken,
}

/// What becomes of a stream that the client opens.
pub(crate) enum Opened {
    /// It is there; the token tells when it is gone.
    Stream(CancellationToken),
    /// There are too many.
    Full,
    /// Its number is not one that comes next: the session ends.
    Misnumbered,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                streams: HashMap::new(),
                last: 0,
                initial: WINDOW,
                session: WINDOW,
                strict: false,
                received: 0,
                due: Vec::new(),
            }),
            due: Notify::new(),
            over: CancellationToken::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a stream. `said`: the client wants nothing back.
    pub(crate) fn open(&self, stream: u32, feed: Feed, said: bool) -> Opened {
        let mut state = self.state();
        // A client's numbers are odd and grow.
        if stream <= state.last || stream.is_multiple_of(2) {
            return Opened::Misnumbered;
        }
        state.last = stream;
        if state.streams.len() >= STREAMS || self.over.is_cancelled() {
            return Opened::Full;
        }
        let gone = self.over.child_token();
        let entry = Entry {
            feed,
            window: state.initial,
            read: 0,
            heard: false,
            said,
            writer: None,
            gone: gone.clone(),
        };
        state.streams.insert(stream, entry);
        Opened::Stream(gone)
    }

    /// The last stream that was opened.
    pub(crate) fn last(&self) -> u32 {
        self.state().last
    }

    /// Where a stream's bytes go; nothing if it is over, and whether it ever was.
    pub(crate) fn feed(&self, stream: u32) -> Result<Feed, bool> {
        let state = self.state();
        match state.streams.get(&stream) {
            Some(entry) => Ok(entry.feed.clone()),
            None => Err(stream <= state.last && !stream.is_multiple_of(2)),
        }
    }

    /// Bytes have come from the client. The session's window opens at once: each stream's bounds memory.
    pub(crate) fn received(&self, count: usize) {
        let mut state = self.state();
        state.received = state.received.saturating_add(count as u32);
        if state.received >= DUE {
            self.due.notify_one();
        }
    }

    /// Bytes of a stream have been read.
    pub(crate) fn read(&self, stream: u32, count: usize) {
        let mut state = self.state();
        let Some(entry) = state.streams.get_mut(&stream) else {
            return;
        };
        let before = entry.read;
        entry.read = entry.read.saturating_add(count as u32);
        if before < DUE && entry.read >= DUE && !entry.heard {
            state.due.push(stream);
            self.due.notify_one();
        }
    }

    /// The windows to open.
    pub(crate) fn updates(&self) -> Vec<Control> {
        let mut state = self.state();
        let mut updates = Vec::new();
        if state.received >= DUE {
            let delta = std::mem::take(&mut state.received);
            updates.push(Control::WindowUpdate { stream: 0, delta });
        }
        for stream in std::mem::take(&mut state.due) {
            if let Some(entry) = state.streams.get_mut(&stream).filter(|entry| !entry.heard) {
                let delta = std::mem::take(&mut entry.read);
                updates.push(Control::WindowUpdate { stream, delta });
            }
        }
        updates
    }

    /// The client opens a window. Fails if it would be larger than windows are: with a stream, that stream
    /// ends, otherwise the session.
    pub(crate) fn widen(&self, stream: u32, delta: u32) -> Result<(), Reset> {
        let mut state = self.state();
        state.strict = true;
        let window = match (stream, state.streams.get_mut(&stream)) {
            (0, _) => &mut state.session,
            (_, Some(entry)) => &mut entry.window,
            (_, None) => return Ok(()),
        };
        *window += i64::from(delta);
        let fits = *window <= i64::from(LARGEST_WINDOW);
        state.wake();
        fits.then_some(()).ok_or(Reset::FlowControl)
    }

    /// The client says how large windows are at the beginning, also of streams that are open.
    pub(crate) fn resize(&self, initial: u32) {
        let mut state = self.state();
        state.strict = true;
        let more = i64::from(initial) - std::mem::replace(&mut state.initial, i64::from(initial));
        for entry in state.streams.values_mut() {
            entry.window += more;
        }
        state.wake();
    }

    /// The client sends no more on a stream.
    pub(crate) fn heard(&self, stream: u32) {
        let mut state = self.state();
        if let Some(entry) = state.streams.get_mut(&stream) {
            entry.heard = true;
            entry.feed.finish();
            state.settle(stream);
        }
    }

    /// Whether data may still be sent on a stream.
    pub(crate) fn speaks(&self, stream: u32) -> bool {
        self.state().streams.get(&stream).is_some_and(|entry| !entry.said)
    }

    /// The end of a stream has been sent.
    pub(crate) fn said(&self, stream: u32) {
        let mut state = self.state();
        if let Some(entry) = state.streams.get_mut(&stream) {
            entry.said = true;
            state.settle(stream);
        }
    }

    /// A stream is reset, by either side. Gives whether it was there.
    pub(crate) fn reset(&self, stream: u32) -> bool {
        let entry = self.state().streams.remove(&stream);
        entry.inspect(|entry| entry.end()).is_some()
    }

    /// The session is over.
    pub(crate) fn end(&self) {
        let streams = std::mem::take(&mut self.state().streams);
        self.over.cancel();
        streams.values().for_each(Entry::end);
    }
}

impl State {
    fn wake(&mut self) {
        for entry in self.streams.values_mut() {
            if let Some(writer) = entry.writer.take() {
                writer.wake();
            }
        }
    }

    fn settle(&mut self, stream: u32) {
        if self.streams.get(&stream).is_some_and(|entry| entry.heard && entry.said) {
            self.streams.remove(&stream);
        }
    }

    /// What may be sent on a stream; `None` if nothing ever may.
    fn allowed(&self, stream: u32, wanted: usize) -> Option<usize> {
        let entry = self.streams.get(&stream).filter(|entry| !entry.said)?;
        if !self.strict {
            return Some(wanted);
        }
        let allowed = entry.window.min(self.session).max(0);
        Some(wanted.min(usize::try_from(allowed).unwrap_or(wanted)))
    }
}

impl Entry {
    fn end(&self) {
        self.feed.break_off();
        self.gone.cancel();
        if let Some(writer) = &self.writer {
            writer.wake_by_ref();
        }
    }
}

impl Gate for Arc<Table> {
    fn poll_open(
        &self,
        stream: u32,
        wanted: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut state = self.state();
        match (state.allowed(stream, wanted), state.streams.get_mut(&stream)) {
            (Some(0), Some(entry)) => {
                entry.writer = Some(cx.waker().clone());
                Poll::Pending
            }
            (Some(count), Some(_)) => Poll::Ready(Ok(count)),
            _ => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn take(&self, stream: u32, wanted: usize) -> usize {
        let mut state = self.state();
        let count = state.allowed(stream, wanted).unwrap_or(0);
        state.session -= count as i64;
        if let Some(entry) = state.streams.get_mut(&stream) {
            entry.window -= count as i64;
        }
        count
    }
}

#[cfg(test)]
mod tests;
