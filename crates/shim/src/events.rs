//! Events for whoever listens at `TTRPC_ADDRESS`: best effort. A daemon that does not take them
//! costs a bounded queue; it learns the truth from Wait and State.

use std::time::{Duration, SystemTime};

use berth_proto::{forward, forward_ttrpc, types};
use protobuf::{Message, MessageField};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::messages::{pack, timestamp};

/// Events that wait to be taken; further ones are dropped.
const QUEUE: usize = 256;
/// One attempt to hand over an event.
const ATTEMPT: Duration = Duration::from_secs(5);
/// How long an event is tried to be handed over: a daemon that is started again misses none, and
/// some learn of an exit by nothing else.
const TRIED: Duration = Duration::from_secs(30);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(500);
/// A connection that is not used is closed: it costs memory in every shim.
const IDLE: Duration = Duration::from_secs(2);

/// The sending end.
#[derive(Clone, Debug)]
pub(crate) struct Events(Option<Sender>);

#[derive(Clone, Debug)]
struct Sender {
    namespace: String,
    queue: mpsc::Sender<Letter>,
}

/// An event on its way.
struct Letter {
    envelope: Box<types::Envelope>,
    /// Dropped when it has been handed over or given up.
    receipt: Option<oneshot::Sender<()>>,
}

impl Events {
    /// Sends to this address (a path or a URI); an empty one sends nowhere.
    pub(crate) fn to(address: &str, namespace: &str) -> Self {
        if address.is_empty() {
            return Self(None);
        }
        let address = match address.contains("://") {
            true => address.to_owned(),
            false => format!("unix://{address}"),
        };
        let (queue, events) = mpsc::channel(QUEUE);
        tokio::spawn(send(address, events));
        Self(Some(Sender { namespace: namespace.to_owned(), queue }))
    }

    /// Whether anybody may be listening.
    pub(crate) fn wanted(&self) -> bool {
        self.0.is_some()
    }

    /// Sends an event of type `containerd.events.<name>`, some time, if possible.
    pub(crate) fn publish(&self, topic: &str, name: &str, event: &impl Message) {
        self.send(topic, name, event, None);
    }

    /// As [`Events::publish`]; ends when the event has been handed over, or cannot be.
    pub(crate) async fn tell(&self, topic: &str, name: &str, event: &impl Message) {
        let (receipt, handed_over) = oneshot::channel();
        self.send(topic, name, event, Some(receipt));
        // Nobody sends anything: it ends when the other end is dropped.
        let _ = tokio::time::timeout(ATTEMPT, handed_over).await;
    }

    fn send(
        &self,
        topic: &str,
        name: &str,
        event: &impl Message,
        receipt: Option<oneshot::Sender<()>>,
    ) {
        let Some(sender) = &self.0 else { return };
        let envelope = types::Envelope {
            timestamp: timestamp(SystemTime::now()),
            namespace: sender.namespace.clone(),
            topic: topic.to_owned(),
            event: MessageField::some(pack(&format!("containerd.events.{name}"), event)),
            ..Default::default()
        };
        // A full queue means that nobody takes events: the newest is as good to lose as any.
        let _ = sender.queue.try_send(Letter { envelope: Box::new(envelope), receipt });
    }
}

async fn send(address: String, mut events: mpsc::Receiver<Letter>) {
    while let Some(first) = events.recv().await {
        let mut next = Some(first);
        let mut client = None;
        while let Some(Letter { envelope, receipt }) = next {
            hand_over(&address, &mut client, *envelope).await;
            drop(receipt);
            next = tokio::time::timeout(IDLE, events.recv()).await.unwrap_or(None);
        }
    }
}

async fn hand_over(
    address: &str,
    client: &mut Option<forward_ttrpc::EventsClient>,
    envelope: types::Envelope,
) {
    let request =
        forward::ForwardRequest { envelope: MessageField::some(envelope), ..Default::default() };
    let begin = Instant::now();
    loop {
        if client.is_none() {
            let connecting = ttrpc::r#async::Client::connect(address);
            let connected = tokio::time::timeout(ATTEMPT, connecting).await;
            *client = connected.ok().and_then(Result::ok).map(forward_ttrpc::EventsClient::new);
        }
        if let Some(there) = client {
            let context = ttrpc::context::with_duration(ATTEMPT);
            match there.forward(context, &request).await {
                // An answer, even a refusal, is an answer.
                Ok(_) | Err(ttrpc::Error::RpcStatus(_)) => return,
                Err(_) => *client = None,
            }
        }
        if begin.elapsed() > TRIED {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
