//! One ttrpc connection: many calls at once over one socket, one small task.
//!
//! A request is written where the call is made; what the socket does not take at once, the task
//! writes. Nothing is awaited between taking a stream id and queueing its frame: ids must reach the
//! shim in rising order, and a call that is dropped must not leave half a frame behind.
//!
//! ```text
//!   call ─▶ pending[id] + frame ─▶ socket (or `out`, when it is full)
//!   task: socket ─▶ response of id ─▶ pending[id] ─▶ call;  end of file ─▶ all calls fail, `closed`
//! ```

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{self, Poll, ready};
use std::time::Duration;

use tokio::io::{Interest, Ready};
use tokio::net::UnixStream;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Timeout};

use crate::frame::{self, Next};
use crate::{Address, Error, Result};

/// A shim that does not read gets no more than this queued for it.
const MAX_QUEUED: usize = 16 << 20;

/// How long a full backlog is waited for between two attempts.
const REDIAL: Duration = Duration::from_millis(10);

/// How much is read at a time.
const READ: usize = 4096;

/// How long a shim that takes no more requests is listened to.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A connection; dropping it closes the socket.
#[derive(Debug)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    socket: UnixStream,
    state: Mutex<State>,
    /// There is something in `out`.
    wake: Notify,
    /// `State::lost` has been set.
    closed: Notify,
}

#[derive(Debug, Default)]
struct State {
    last_stream: Option<u32>,
    pending: HashMap<u32, oneshot::Sender<Vec<u8>>>,
    out: Vec<u8>,
    lost: Option<Arc<str>>,
}

/// Why a call got no response.
#[derive(Debug)]
pub(crate) enum Failure {
    Lost(Arc<str>),
    TimedOut,
    Refused(Cow<'static, str>),
}

impl Connection {
    /// Connects within the deadline.
    pub(crate) async fn dial(address: &Address, limit: Duration) -> Result<Connection> {
        let path = address.to_path();
        let failed = |source| Error::Dial { address: address.to_string(), source };
        let deadline = Instant::now() + limit;
        let socket = loop {
            match tokio::time::timeout_at(deadline, UnixStream::connect(&path)).await {
                Ok(Ok(socket)) => break socket,
                // The backlog is full: connect(2) on a non-blocking unix socket says so at once.
                Ok(Err(e)) if e.kind() == io::ErrorKind::WouldBlock => {}
                Ok(Err(e)) => return Err(failed(e)),
                Err(_) => return Err(failed(io::ErrorKind::TimedOut.into())),
            }
            if Instant::now() + REDIAL >= deadline {
                return Err(failed(io::ErrorKind::TimedOut.into()));
            }
            tokio::time::sleep(REDIAL).await;
        };
        Ok(Connection::over(socket))
    }

    pub(crate) fn over(socket: UnixStream) -> Connection {
        let shared = Arc::new(Shared {
            socket,
            state: Mutex::default(),
            wake: Notify::new(),
            closed: Notify::new(),
        });
        let task = tokio::spawn(serve(Arc::clone(&shared)));
        Connection { shared, task }
    }

    /// Sends a request message; the future waits for the response message.
    pub(crate) fn call(&self, request: &[u8], deadline: Option<Instant>) -> Call<'_> {
        let (sender, response) = oneshot::channel();
        match self.send(request, sender) {
            Ok(waiting) => Call::Sent(waiting, Response::of(response, deadline)),
            Err(why) => Call::Failed(Some(why)),
        }
    }

    /// Resolves when the connection is lost, with the reason.
    pub(crate) async fn closed(&self) -> Arc<str> {
        let closed = self.shared.closed.notified();
        tokio::pin!(closed);
        closed.as_mut().enable();
        if self.shared.state().lost.is_none() {
            closed.await;
        }
        self.shared.lost()
    }

    fn send(
        &self,
        request: &[u8],
        sender: oneshot::Sender<Vec<u8>>,
    ) -> std::result::Result<Waiting<'_>, Failure> {
        if request.len() > frame::MAX_MESSAGE {
            return Err(Failure::Refused("the request is larger than ttrpc allows (4 MiB)".into()));
        }
        let mut state = self.shared.state();
        if let Some(why) = &state.lost {
            return Err(Failure::Lost(Arc::clone(why)));
        }
        if state.out.len() > MAX_QUEUED {
            return Err(Failure::Refused("the shim does not read its requests".into()));
        }
        // Clients' streams are odd (ttrpc's protocol description).
        let Some(stream) = state.last_stream.map_or(Some(1), |last| last.checked_add(2)) else {
            return Err(Failure::Refused("the connection has run out of stream ids".into()));
        };
        state.last_stream = Some(stream);
        state.pending.insert(stream, sender);
        frame::append_request(&mut state.out, stream, request);
        // An error shows in the task as well, which then fails every call.
        if self.shared.flush(&mut state).is_err() || !state.out.is_empty() {
            self.shared.wake.notify_one();
        }
        Ok(Waiting { shared: &self.shared, stream })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A call that was made, as a future of its response: small, since a Wait lasts as long as its pod.
pub(crate) enum Call<'a> {
    Sent(Waiting<'a>, Response),
    Failed(Option<Failure>),
}

/// A response that is waited for. The timer is boxed: Waits have none.
pub(crate) enum Response {
    Whenever(oneshot::Receiver<Vec<u8>>),
    InTime(Pin<Box<Timeout<oneshot::Receiver<Vec<u8>>>>>),
}

impl Response {
    fn of(response: oneshot::Receiver<Vec<u8>>, deadline: Option<Instant>) -> Response {
        match deadline {
            None => Response::Whenever(response),
            Some(at) => Response::InTime(Box::pin(tokio::time::timeout_at(at, response))),
        }
    }
}

impl Future for Call<'_> {
    type Output = std::result::Result<Vec<u8>, Failure>;

    fn poll(self: Pin<&mut Self>, task: &mut task::Context<'_>) -> Poll<Self::Output> {
        let (waiting, response) = match self.get_mut() {
            Call::Sent(waiting, response) => (waiting, response),
            Call::Failed(why) => {
                let again = || Failure::Refused("it has been answered".into());
                return Poll::Ready(Err(why.take().unwrap_or_else(again)));
            }
        };
        let answered = match response {
            Response::Whenever(response) => ready!(Pin::new(response).poll(task)),
            Response::InTime(response) => match ready!(response.as_mut().poll(task)) {
                Ok(answered) => answered,
                Err(_) => return Poll::Ready(Err(Failure::TimedOut)),
            },
        };
        Poll::Ready(answered.map_err(|_| Failure::Lost(waiting.shared.lost())))
    }
}

/// A call in progress; dropping it forgets the call, whose response is then passed over.
pub(crate) struct Waiting<'a> {
    shared: &'a Shared,
    stream: u32,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.state().pending.remove(&self.stream);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lost(&self) -> Arc<str> {
        self.state().lost.clone().unwrap_or_else(|| "closed".into())
    }

    /// Writes what the socket takes of `out`.
    fn flush(&self, state: &mut State) -> io::Result<()> {
        while !state.out.is_empty() {
            match self.socket.try_write(&state.out) {
                Ok(taken) if taken == state.out.len() => state.out = Vec::new(),
                Ok(taken) => drop(state.out.drain(..taken)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Reads what is there and hands whole responses to their calls.
    fn read(&self, buffer: &mut Vec<u8>) -> io::Result<()> {
        buffer.reserve(READ);
        match self.socket.try_read_buf(buffer) {
            Ok(0) => return Err(io::Error::other("the shim closed it")),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
        let mut done = 0;
        loop {
            match frame::next(&buffer[done..]) {
                Next::Response(incoming, taken) => {
                    done += taken;
                    if let Some(call) = self.state().pending.remove(&incoming.stream) {
                        // A call that was dropped meanwhile wants no response.
                        let _ = call.send(incoming.message);
                    }
                }
                Next::Other(taken) => done += taken,
                Next::Incomplete => break,
                Next::Oversized(length) => {
                    return Err(io::Error::other(format!(
                        "the shim sent a message of {length} bytes: it does not speak ttrpc"
                    )));
                }
            }
        }
        buffer.drain(..done);
        if buffer.is_empty() {
            // Idle connections hold no buffer.
            *buffer = Vec::new();
        }
        Ok(())
    }

    fn lose(&self, why: &io::Error) {
        let mut state = self.state();
        state.lost = Some(why.to_string().into());
        state.pending = HashMap::new();
        state.out = Vec::new();
        drop(state);
        self.closed.notify_waiters();
    }
}

async fn serve(shared: Arc<Shared>) {
    let mut buffer = Vec::new();
    let why = match exchange(&shared, &mut buffer).await {
        Broken::Reading(why) => why,
        // The shim has gone away, and what it said before is still to be read, up to its end.
        Broken::Writing(why) => {
            tokio::time::timeout(LAST_WORDS, last_words(&shared, &mut buffer)).await.unwrap_or(why)
        }
    };
    shared.lose(&why);
}

enum Broken {
    Reading(io::Error),
    Writing(io::Error),
}

async fn exchange(shared: &Shared, buffer: &mut Vec<u8>) -> Broken {
    loop {
        let interest = if shared.state().out.is_empty() {
            Interest::READABLE
        } else {
            Interest::READABLE | Interest::WRITABLE
        };
        let ready = tokio::select! {
            ready = shared.socket.ready(interest) => match ready {
                Ok(ready) => ready,
                Err(why) => return Broken::Reading(why),
            },
            () = shared.wake.notified() => Ready::WRITABLE,
        };
        if ready.is_readable()
            && let Err(why) = shared.read(buffer)
        {
            return Broken::Reading(why);
        }
        if ready.is_writable()
            && let Err(why) = shared.flush(&mut shared.state())
        {
            return Broken::Writing(why);
        }
    }
}

async fn last_words(shared: &Shared, buffer: &mut Vec<u8>) -> io::Error {
    loop {
        let read = shared.socket.readable().await.and_then(|()| shared.read(buffer));
        if let Err(why) = read {
            return why;
        }
    }
}
