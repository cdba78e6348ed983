//! A shim that is connected: how a call is made.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use protobuf::Message;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::Instant;
use ttrpc::proto::{KeyValue, Request};

use crate::connection::{Call, Connection, Failure};
use crate::decode::decode;
use crate::frame::{Reply, reply};
use crate::{Address, Answer, Error, Generation, Result};

/// The metadata by which Go shims learn the containerd namespace that a call is about.
const NAMESPACE_KEY: &str = "containerd-namespace-ttrpc";

/// How long calls may take. Wait and WaitSandbox have no deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Connecting.
    pub dial: Duration,
    /// A call that runs an OCI runtime or boots a VM: Create, Start, CreateSandbox, StartSandbox.
    pub create: Duration,
    /// Every other call.
    pub call: Duration,
}

impl Default for Deadlines {
    fn default() -> Deadlines {
        Deadlines {
            dial: Duration::from_secs(3),
            create: Duration::from_secs(60),
            call: Duration::from_secs(10),
        }
    }
}

/// A connected shim. Clones share the connection, which closes with the last of them.
#[derive(Clone, Debug)]
pub struct Shim {
    inner: Arc<Connected>,
}

#[derive(Debug)]
struct Connected {
    connection: Connection,
    generation: Generation,
    namespace: Box<str>,
    deadlines: Deadlines,
    turn: Arc<Mutex<()>>,
}

/// A call's place on the wire.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Method {
    pub(crate) service: &'static str,
    pub(crate) name: &'static str,
}

impl Shim {
    /// Connects to a shim where its answer says, within the dial deadline.
    ///
    /// # Errors
    /// Nobody listens there, or not in time: kind Unavailable.
    pub async fn connect(answer: &Answer, namespace: &str, deadlines: Deadlines) -> Result<Shim> {
        let connection = Connection::dial(&answer.address, deadlines.dial).await?;
        let inner = Connected {
            connection,
            generation: answer.generation,
            namespace: namespace.into(),
            deadlines,
            turn: Arc::default(),
        };
        Ok(Shim { inner: Arc::new(inner) })
    }

    /// A shim at the other end of this socket.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn over(socket: tokio::net::UnixStream, generation: Generation) -> Shim {
        let connection = Connection::over(socket);
        let (namespace, deadlines) = ("k8s.io".into(), Deadlines::default());
        let turn = Arc::default();
        Shim { inner: Arc::new(Connected { connection, generation, namespace, deadlines, turn }) }
    }

    /// Does anybody listen there at all? For adoption, before the shim is asked anything.
    ///
    /// # Errors
    /// As [`Shim::connect`].
    pub async fn reachable(address: &Address, limit: Duration) -> Result<()> {
        Connection::dial(address, limit).await.map(drop)
    }

    /// Waits for a turn, which lasts until the answer to this is dropped: for calls of which the shim is
    /// better sent one at a time. No call takes one by itself.
    pub async fn turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.inner.turn).lock_owned().await
    }

    /// Resolves when the connection is lost, with the reason: the shim is dead or as good as dead.
    pub async fn closed(&self) -> Arc<str> {
        self.inner.connection.closed().await
    }

    /// Which generation of Task it speaks.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.inner.generation
    }

    pub(crate) fn deadlines(&self) -> Deadlines {
        self.inner.deadlines
    }

    /// Makes one call, sent before this returns: `id` is only for messages, `limit` is none for the
    /// Waits, which may last as long as their pod. Their futures keep nothing of what was asked, nor
    /// room for a timer.
    pub(crate) fn call<'a, A: Message, B: Message>(
        &'a self,
        method: Method,
        id: &'a str,
        limit: Option<Duration>,
        arguments: &A,
    ) -> impl Future<Output = Result<B>> + use<'a, A, B> {
        let call = method.name;
        let deadline = limit.map(|limit| Instant::now() + limit);
        let sent = match self.request(method, limit, arguments) {
            Ok(request) => self.inner.connection.call(&request, deadline),
            Err(why) => Call::Failed(Some(Failure::Refused(why.to_string().into()))),
        };
        sent.map(move |answered| match answered {
            Ok(message) => answer(&message, call, id),
            Err(why) => Err(why.of(call, id, limit)),
        })
    }

    fn request<A: Message>(
        &self,
        method: Method,
        limit: Option<Duration>,
        arguments: &A,
    ) -> protobuf::Result<Vec<u8>> {
        let namespace = KeyValue {
            key: NAMESPACE_KEY.to_owned(),
            value: self.inner.namespace.as_ref().to_owned(),
            ..KeyValue::default()
        };
        Request {
            service: method.service.to_owned(),
            method: method.name.to_owned(),
            payload: arguments.write_to_bytes()?,
            // The shim gives up when we do; 0 is "never".
            timeout_nano: limit.map_or(0, |l| i64::try_from(l.as_nanos()).unwrap_or(i64::MAX)),
            metadata: vec![namespace],
            ..Request::default()
        }
        .write_to_bytes()
    }
}

/// What a response message says.
fn answer<B: Message>(message: &[u8], call: &'static str, id: &str) -> Result<B> {
    let id = || id.to_owned();
    let undecodable = |why| Error::Reply { call, id: id(), why };
    match reply(message) {
        Reply::Payload(payload) => decode(&payload).map_err(|e| undecodable(e.to_string())),
        Reply::Refused(kind, message) => Err(Error::Refused { call, id: id(), kind, message }),
        Reply::Undecodable(why) => Err(undecodable(why)),
    }
}

impl Failure {
    /// The error of this call about `id`.
    fn of(self, call: &'static str, id: &str, limit: Option<Duration>) -> Error {
        let id = id.to_owned();
        match self {
            Failure::TimedOut => Error::TimedOut { call, id, after: limit.unwrap_or_default() },
            Failure::Lost(why) => Error::Lost { call, id, why: why.as_ref().to_owned() },
            Failure::Refused(why) => Error::Request { call, id, why: why.into_owned() },
        }
    }
}

/// A shim that ends as it is told to may take the connection with it before its reply is written.
pub(crate) fn lost_is_done<T: Default>(result: Result<T>) -> Result<T> {
    match result {
        Err(Error::Lost { .. }) => Ok(T::default()),
        other => other,
    }
}
