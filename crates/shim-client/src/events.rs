//! The endpoint at `TTRPC_ADDRESS`: shims tell there what happens, and some do not start without
//! it. What they tell is a hint: an exit is believed when Wait says so.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use berth_proto::{events, forward, forward_ttrpc, types};
use protobuf::MessageField;
use protobuf::well_known_types::any::Any as WireAny;
use protobuf::well_known_types::empty::Empty;
use protobuf::well_known_types::timestamp::Timestamp;
use tokio::sync::oneshot;
use ttrpc::r#async::{Client, Server, TtrpcContext};

use crate::decode::decode;
use crate::types::time;
use crate::{Error, Exited, Result};

/// How long an event may take to be handed over.
const PUBLISH: Duration = Duration::from_secs(5);

/// What a shim tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The kernel, or a guest's, has killed in this container for lack of memory.
    Oom {
        /// The container.
        container: String,
    },
    /// A process has ended.
    Exit {
        /// Its container.
        container: String,
        /// The container again, or the exec.
        process: String,
        /// How it ended.
        exited: Exited,
    },
    /// Something else, under this topic.
    Other {
        /// `/tasks/create`, …
        topic: String,
    },
}

/// Listens until it is dropped.
#[derive(Debug)]
pub struct Events {
    _until: oneshot::Sender<()>,
}

impl Events {
    /// Listens at this path, in place of whoever did before, and hands each event on.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub async fn listen(
        path: &Path,
        hear: impl Fn(Event) + Send + Sync + 'static,
    ) -> Result<Events> {
        let failed = |action| {
            let path = PathBuf::from(path);
            move |source| Error::Bundle { action, path, source }
        };
        if let Err(e) = std::fs::remove_file(path)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            return Err(failed("remove")(e));
        }
        let service = forward_ttrpc::create_events(Arc::new(Ear(hear)));
        let bound = Server::new().bind(&format!("unix://{}", path.display()));
        let mut server = bound
            .map_err(|e| failed("listen on")(std::io::Error::other(e)))?
            .register_service(service);
        // Who can tell us things, could tell us wrong ones.
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(path, mode).map_err(failed("close to others"))?;
        let started = server.start().await;
        started.map_err(|e| failed("listen on")(std::io::Error::other(e)))?;
        let (until, dropped) = oneshot::channel::<()>();
        tokio::spawn(async move {
            let _ = dropped.await;
            let _ = server.shutdown().await;
        });
        Ok(Events { _until: until })
    }
}

struct Ear<F>(F);

#[async_trait]
impl<F: Fn(Event) + Send + Sync> forward_ttrpc::Events for Ear<F> {
    async fn forward(
        &self,
        _: &TtrpcContext,
        request: forward::ForwardRequest,
    ) -> ttrpc::Result<Empty> {
        (self.0)(event(&request.envelope.unwrap_or_default()));
        Ok(Empty::default())
    }
}

/// What an envelope holds. Shims that write their types by other means give only the topic.
pub(crate) fn event(envelope: &types::Envelope) -> Event {
    let value = envelope.event.as_ref().map(|event| event.value.as_slice()).unwrap_or_default();
    let other = || Event::Other { topic: envelope.topic.clone() };
    match envelope.topic.as_str() {
        "/tasks/oom" => match decode::<events::TaskOOM>(value) {
            Ok(oom) => Event::Oom { container: oom.container_id },
            Err(_) => other(),
        },
        "/tasks/exit" => match decode::<events::TaskExit>(value) {
            Ok(exit) => Event::Exit {
                container: exit.container_id,
                process: exit.id,
                exited: Exited { status: exit.exit_status, at: time(exit.exited_at.as_ref()) },
            },
            Err(_) => other(),
        },
        _ => other(),
    }
}

/// Hands an event to whoever listens at `address` (`/run/x.sock` or `unix:///run/x.sock`): what a
/// shim runs its `-publish-binary` for. `event` is an encoded `Any`.
///
/// # Errors
/// It is no `Any`, or nobody takes it.
pub async fn publish(address: &str, namespace: &str, topic: &str, event: &[u8]) -> Result<()> {
    let wrong = |why: String| Error::Request { call: "publish", id: topic.to_owned(), why };
    let event = decode::<WireAny>(event).map_err(|e| wrong(e.to_string()))?;
    let uri = match address.contains("://") {
        true => address.to_owned(),
        false => format!("unix://{address}"),
    };
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let envelope = types::Envelope {
        timestamp: MessageField::some(Timestamp {
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
            ..Timestamp::default()
        }),
        namespace: namespace.to_owned(),
        topic: topic.to_owned(),
        event: MessageField::some(event),
        ..types::Envelope::default()
    };
    let request = forward::ForwardRequest {
        envelope: MessageField::some(envelope),
        ..forward::ForwardRequest::default()
    };
    let dial = |source| Error::Dial { address: address.to_owned(), source };
    let hand_over = async {
        let client = Client::connect(&uri).await.map_err(|e| dial(std::io::Error::other(e)))?;
        let context = ttrpc::context::with_duration(PUBLISH);
        let client = forward_ttrpc::EventsClient::new(client);
        client.forward(context, &request).await.map_err(|e| wrong(e.to_string()))
    };
    match tokio::time::timeout(PUBLISH, hand_over).await {
        Ok(done) => done.map(drop),
        Err(_) => Err(dial(std::io::ErrorKind::TimedOut.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protobuf::Message as _;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn what_is_published_is_heard() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.sock");
        // A dead daemon's.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let (told, mut heard) = mpsc::unbounded_channel();
        let listening = Events::listen(&path, move |event| drop(told.send(event))).await.unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let oom = events::TaskOOM { container_id: "c1".into(), ..Default::default() };
        let value = oom.write_to_bytes().unwrap();
        let type_url = "containerd.events.TaskOOM".to_owned();
        let event = WireAny { type_url, value, ..Default::default() }.write_to_bytes().unwrap();
        let address = path.to_str().unwrap();
        publish(address, "k8s.io", "/tasks/oom", &event).await.unwrap();
        assert_eq!(heard.recv().await, Some(Event::Oom { container: "c1".into() }));
        publish(&format!("unix://{address}"), "k8s.io", "/tasks/paused", &event).await.unwrap();
        assert_eq!(heard.recv().await, Some(Event::Other { topic: "/tasks/paused".into() }));
        publish(address, "k8s.io", "/tasks/oom", b"\xff").await.unwrap_err();
        drop(listening);
    }

    #[tokio::test]
    async fn nobody_to_publish_to_is_said() {
        let error = publish("/nonexistent/x.sock", "k8s.io", "/tasks/oom", b"").await.unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Unavailable);
    }
}
