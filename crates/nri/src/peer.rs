//! ttrpc both ways over one socket: calls that we make, and calls that the other side makes.
//!
//! ```text
//!   call ─▶ pending[stream] + frame ─▶ outgoing ─▶ writer ─▶ socket
//!   socket ─▶ reader ─▶ decoder ─┬─ response ─▶ pending[stream] ─▶ call
//!                                └─ request ─▶ a task ─▶ the handler ─▶ response ─▶ outgoing
//! ```
//!
//! Both sides are the same but for who serves which connection, so a plugin can be written with this
//! as well as the runtime's side.

use std::collections::HashMap;
use std::future::Future;
use std::io::ErrorKind;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_proto::nri::ttrpc::{Request, Response, Status};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::frame::{Conn, Decoder, Kind, MAX_MESSAGE, Message, encode};

/// How much is read at a time.
const READ: usize = 16 << 10;

/// Calls of the other side that are served at once; it waits for none but its own.
const SERVED: usize = 16;

/// A side that does not read gets no more than this queued for it, bytes.
const MAX_QUEUED: usize = 16 << 20;

/// The prefix of both services' names.
const PACKAGE: &str = "nri.pkg.api.v1alpha1";

/// gRPC's codes, as far as they are told apart here.
pub mod code {
    /// It took too long.
    pub const DEADLINE_EXCEEDED: i32 = 4;
    /// An argument is wrong.
    pub const INVALID_ARGUMENT: i32 = 3;
    /// Too many calls at once.
    pub const RESOURCE_EXHAUSTED: i32 = 8;
    /// There is no such call.
    pub const UNIMPLEMENTED: i32 = 12;
    /// Any other error.
    pub const UNKNOWN: i32 = 2;
}

/// Why a call gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The other side refused it.
    #[error("{message} (code {code})")]
    Refused {
        /// gRPC's code.
        code: i32,
        /// Its words.
        message: String,
    },
    /// It did not answer in time.
    #[error("it did not answer within {0:?}")]
    TimedOut(Duration),
    /// The connection is lost.
    #[error("the connection is lost: {0}")]
    Lost(Arc<str>),
    /// Its answer cannot be decoded.
    #[error("its answer cannot be decoded: {0}")]
    Undecodable(String),
    /// The request is larger than a message may be.
    #[error("the request has {0} bytes: at most {MAX_MESSAGE} are allowed")]
    TooLarge(usize),
}

/// What the answer to a served call is: an encoded message, or a code and words.
pub type Answer = Result<Vec<u8>, (i32, String)>;

/// Serves a call by its method's name and its encoded request.
pub type Handler =
    Arc<dyn Fn(String, Vec<u8>) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync>;

/// One side of a connection; dropping it closes the socket.
#[derive(Debug)]
pub struct Peer {
    shared: Arc<Shared>,
    tasks: [JoinHandle<()>; 2],
}

struct Shared {
    /// The connection that we call over.
    calls: Conn,
    state: Mutex<State>,
    outgoing: mpsc::UnboundedSender<Vec<u8>>,
    /// Bytes in it.
    queued: AtomicUsize,
    lost: watch::Sender<Option<Arc<str>>>,
    serving: Arc<Semaphore>,
    handler: Handler,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("calls", &self.calls).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    last_stream: Option<u32>,
    pending: HashMap<u32, oneshot::Sender<Vec<u8>>>,
}

impl Peer {
    /// Speaks over this socket: calls over `calls`, and serves the other connection with `handler`.
    pub fn new(socket: UnixStream, calls: Conn, handler: Handler) -> Peer {
        let (read, write) = socket.into_split();
        let (outgoing, queue) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            calls,
            state: Mutex::default(),
            outgoing,
            queued: AtomicUsize::new(0),
            lost: watch::Sender::new(None),
            serving: Arc::new(Semaphore::new(SERVED)),
            handler,
        });
        let tasks = [
            tokio::spawn(reads(Arc::clone(&shared), read)),
            tokio::spawn(writes(Arc::clone(&shared), write, queue)),
        ];
        Peer { shared, tasks }
    }

    /// Calls a method of the other side's service, and waits so long for its answer.
    ///
    /// # Errors
    /// It refuses, says nothing in time, or is gone.
    pub async fn call<Answer: prost::Message + Default>(
        &self,
        method: &str,
        request: &impl prost::Message,
        limit: Duration,
    ) -> Result<Answer, Failure> {
        let service = match self.shared.calls {
            Conn::Plugin => format!("{PACKAGE}.Plugin"),
            Conn::Runtime => format!("{PACKAGE}.Runtime"),
        };
        let body = Request {
            service,
            method: method.to_owned(),
            payload: request.encode_to_vec(),
            timeout_nano: i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX),
        }
        .encode_to_vec();
        if body.len() > MAX_MESSAGE {
            return Err(Failure::TooLarge(body.len()));
        }
        let (sender, answer) = oneshot::channel();
        let _waiting = self.shared.send(body, sender)?;
        let answer = match tokio::time::timeout(limit, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => return Err(Failure::Lost(self.shared.why_lost())),
            Err(_) => return Err(Failure::TimedOut(limit)),
        };
        let undecodable = |why: prost::DecodeError| Failure::Undecodable(why.to_string());
        let response = Response::decode(&answer[..]).map_err(undecodable)?;
        match response.status.filter(|status| status.code != 0) {
            Some(Status { code, message }) => Err(Failure::Refused { code, message }),
            None => Answer::decode(&response.payload[..]).map_err(undecodable),
        }
    }

    /// Why the connection is lost; none while it is there.
    pub fn lost(&self) -> Option<Arc<str>> {
        self.shared.lost.borrow().clone()
    }

    /// Resolves when the connection is lost, with the reason.
    pub async fn closed(&self) -> Arc<str> {
        let mut lost = self.shared.lost.subscribe();
        let why = lost.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
        why.unwrap_or_else(|| "closed".into())
    }

    /// Closes the connection for this reason, unless it is lost already.
    pub fn close(&self, why: &str) {
        self.shared.lose(why);
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.close("closed by this side");
    }
}

/// A call in progress; dropping it forgets the call, whose answer is then passed over.
struct Waiting<'a>(&'a Shared, u32);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state().pending.remove(&self.1);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn why_lost(&self) -> Arc<str> {
        self.lost.borrow().clone().unwrap_or_else(|| "closed".into())
    }

    fn lose(&self, why: &str) {
        self.lost.send_if_modified(|lost| {
            let first = lost.is_none();
            if first {
                *lost = Some(why.into());
            }
            first
        });
        // Whoever waits for an answer is told by this.
        self.state().pending = HashMap::new();
    }

    fn send(
        &self,
        body: Vec<u8>,
        answer: oneshot::Sender<Vec<u8>>,
    ) -> Result<Waiting<'_>, Failure> {
        let mut state = self.state();
        if self.lost.borrow().is_some() {
            return Err(Failure::Lost(self.why_lost()));
        }
        // Clients' streams are odd, and rise in the order of their frames (ttrpc's description).
        let Some(stream) = state.last_stream.map_or(Some(1), |last| last.checked_add(2)) else {
            return Err(Failure::Lost("it has run out of stream ids".into()));
        };
        state.last_stream = Some(stream);
        state.pending.insert(stream, answer);
        self.queue(&Message { conn: self.calls, stream, kind: Kind::Request, body });
        drop(state);
        Ok(Waiting(self, stream))
    }

    fn queue(&self, message: &Message) {
        let bytes = encode(message);
        self.queued.fetch_add(bytes.len(), Ordering::Relaxed);
        // A writer that is gone has said why.
        let _ = self.outgoing.send(bytes);
    }

    /// Takes a message of the other side.
    fn take(self: &Arc<Self>, message: Message) -> Result<(), String> {
        if self.queued.load(Ordering::Relaxed) > MAX_QUEUED {
            return Err("it calls, and does not read the answers".to_owned());
        }
        let ours = message.conn == self.calls;
        match message.kind {
            Kind::Response if ours => {
                if let Some(call) = self.state().pending.remove(&message.stream) {
                    // A call that was dropped meanwhile wants no answer.
                    let _ = call.send(message.body);
                }
                Ok(())
            }
            Kind::Request if !ours => {
                self.serve(message);
                Ok(())
            }
            Kind::Response => Err("it answers over the connection that it calls over".to_owned()),
            Kind::Request => Err("it calls over the connection that it is called over".to_owned()),
        }
    }

    fn serve(self: &Arc<Self>, message: Message) {
        let (stream, conn) = (message.stream, message.conn);
        let respond = move |shared: &Self, answer: Answer| {
            let response = match answer {
                Ok(payload) => Response { status: None, payload },
                Err((code, message)) => {
                    Response { status: Some(Status { code, message }), payload: Vec::new() }
                }
            };
            let body = response.encode_to_vec();
            shared.queue(&Message { conn, stream, kind: Kind::Response, body });
        };
        let request = match Request::decode(&message.body[..]) {
            Ok(request) => request,
            Err(why) => {
                return respond(self, Err((code::INVALID_ARGUMENT, format!("no request: {why}"))));
            }
        };
        let Ok(turn) = Arc::clone(&self.serving).try_acquire_owned() else {
            let text = format!("{SERVED} calls are being served: wait for one of them");
            return respond(self, Err((code::RESOURCE_EXHAUSTED, text)));
        };
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            let answer = (shared.handler)(request.method, request.payload).await;
            respond(&shared, answer);
            drop(turn);
        });
    }
}

async fn reads(shared: Arc<Shared>, mut socket: OwnedReadHalf) {
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; READ];
    let why = loop {
        let got = match socket.read(&mut buffer).await {
            Ok(0) => break "it closed the connection".to_owned(),
            Ok(got) => got,
            // It had not read everything.
            Err(why) if why.kind() == ErrorKind::ConnectionReset => {
                break "it closed the connection".to_owned();
            }
            Err(why) => break why.to_string(),
        };
        let messages = match decoder.feed(&buffer[..got]) {
            Ok(messages) => messages,
            Err(why) => break why.to_string(),
        };
        let taken = messages.into_iter().try_for_each(|message| shared.take(message));
        if let Err(why) = taken {
            break why;
        }
    };
    shared.lose(&why);
}

async fn writes(
    shared: Arc<Shared>,
    mut socket: OwnedWriteHalf,
    mut queue: mpsc::UnboundedReceiver<Vec<u8>>,
) {
    let mut lost = shared.lost.subscribe();
    loop {
        let bytes = tokio::select! {
            bytes = queue.recv() => bytes,
            _ = lost.wait_for(Option::is_some) => None,
        };
        let Some(bytes) = bytes else { return };
        if let Err(why) = socket.write_all(&bytes).await {
            return shared.lose(&format!("cannot write to it: {why}"));
        }
        shared.queued.fetch_sub(bytes.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_proto::nri::v1alpha1::{ConfigureRequest, ConfigureResponse, Empty};

    fn refuses() -> Handler {
        Arc::new(|method, _| {
            Box::pin(async move { Err((code::UNIMPLEMENTED, format!("no {method}"))) })
        })
    }

    fn pair(plugin: Handler, runtime: Handler) -> (Peer, Peer) {
        let (one, other) = UnixStream::pair().unwrap();
        (Peer::new(one, Conn::Plugin, runtime), Peer::new(other, Conn::Runtime, plugin))
    }

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn both_sides_call_and_are_answered() {
        let plugin: Handler = Arc::new(|method, request| {
            Box::pin(async move {
                assert_eq!(method, "Configure");
                let request = ConfigureRequest::decode(&request[..]).unwrap();
                let events = i32::try_from(request.config.len()).unwrap();
                Ok(ConfigureResponse { events }.encode_to_vec())
            })
        });
        let (runtime, plugin) = pair(plugin, refuses());
        // Larger than what a socket takes at once.
        let config = "x".repeat(3 << 20);
        let request = ConfigureRequest { config, ..ConfigureRequest::default() };
        let answer: ConfigureResponse = runtime.call("Configure", &request, LIMIT).await.unwrap();
        assert_eq!(answer.events, 3 << 20);
        let refused = plugin.call::<Empty>("RegisterPlugin", &Empty {}, LIMIT).await.unwrap_err();
        let message = "no RegisterPlugin".to_owned();
        assert_eq!(refused, Failure::Refused { code: code::UNIMPLEMENTED, message });
    }

    #[tokio::test]
    async fn a_call_ends_with_its_time_and_with_the_connection() {
        let silent: Handler = Arc::new(|_, _| Box::pin(std::future::pending()));
        let (runtime, plugin) = pair(silent, refuses());
        let short = Duration::from_millis(1);
        let late = runtime.call::<Empty>("Shutdown", &Empty {}, short).await.unwrap_err();
        assert_eq!(late, Failure::TimedOut(short));
        let call = runtime.call::<Empty>("Shutdown", &Empty {}, LIMIT);
        let (ended, ()) = tokio::join!(call, async { drop(plugin) });
        assert!(matches!(ended, Err(Failure::Lost(_))), "{ended:?}");
        assert_eq!(&*runtime.closed().await, "it closed the connection");
        let after = runtime.call::<Empty>("Shutdown", &Empty {}, LIMIT).await;
        assert!(matches!(after, Err(Failure::Lost(_))), "{after:?}");
    }

    #[tokio::test]
    async fn bytes_that_are_no_frames_end_it_with_the_reason() {
        let (one, mut other) = UnixStream::pair().unwrap();
        let runtime = Peer::new(one, Conn::Plugin, refuses());
        other.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        assert!(runtime.closed().await.contains("a frame of connection"), "{:?}", runtime.lost());
    }

    #[tokio::test]
    async fn a_request_that_is_too_large_is_not_sent() {
        let (runtime, _plugin) = pair(refuses(), refuses());
        let config = "x".repeat(MAX_MESSAGE);
        let request = ConfigureRequest { config, ..ConfigureRequest::default() };
        let refused = runtime.call::<Empty>("Configure", &request, LIMIT).await.unwrap_err();
        assert!(matches!(refused, Failure::TooLarge(_)), "{refused:?}");
    }

    #[tokio::test]
    async fn more_calls_than_are_served_at_once_are_refused() {
        let silent: Handler = Arc::new(|_, _| Box::pin(std::future::pending()));
        let (_runtime, plugin) = pair(refuses(), silent);
        let calls = (0..=SERVED)
            .map(|_| Box::pin(plugin.call::<Empty>("UpdateContainers", &Empty {}, LIMIT)));
        let (first, _, _) = futures_util::future::select_all(calls).await;
        let refused = matches!(first, Err(Failure::Refused { code: code::RESOURCE_EXHAUSTED, .. }));
        assert!(refused, "{first:?}");
    }
}
