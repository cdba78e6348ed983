//! Port-forward over SPDY: any number of connections, each a pair of streams.

use std::collections::HashMap;
use std::future::pending;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::Connection;
use super::pairs::{Kind, Label, Paired, Pairs};
use crate::ended::{Ended, together};
use crate::http::Site;
use crate::outbox::{Outbox, Parcel};
use crate::pulse::Pace;
use crate::spdy::{Session, Stream, session};
use crate::{Backend, PortForward};

pub(super) async fn serve<T>(io: T, wanted: PortForward, site: &Site) -> Ended
where
    T: AsyncRead + AsyncWrite + Send + Unpin,
{
    let (session, drive) = session(io, Pace::of(&site.config));
    together(handle(session, wanted, site), drive).await
}

/// Takes streams until the session is over.
async fn handle(mut session: Session, wanted: PortForward, site: &Site) {
    let mut pairs = Pairs::new();
    let (mut connections, mut running) = (JoinSet::new(), HashMap::new());
    loop {
        let deadline = pairs.deadline();
        tokio::select! {
            stream = session.streams.recv() => {
                let Some(stream) = stream else { return };
                let Some(label) = Label::parse(&stream.headers, stream.id) else {
                    stream.refuse().await;
                    continue;
                };
                stream.accept().await;
                match pairs.add(&label, stream, Instant::now() + site.config.creation) {
                    Paired::Waiting => {}
                    Paired::Twice(stream) => cancel(&session.queue, stream.id).await,
                    Paired::Whole { data, error } => {
                        let forward = Forward {
                            backend: site.backend.clone(),
                            queue: session.queue.clone(),
                            pod: wanted.pod.clone(),
                            port: label.port,
                        };
                        let ids = [data.id, error.id];
                        let task = connections.spawn(forward.run(data, error));
                        running.insert(task.id(), ids);
                    }
                }
            }
            Some(ended) = connections.join_next_with_id() => {
                let task = ended.as_ref().map_or_else(JoinError::id, |(task, ())| *task);
                // A panic in the backend is one connection's end.
                let ids = running.remove(&task).filter(|_| ended.is_err());
                for id in ids.into_iter().flatten() {
                    cancel(&session.queue, id).await;
                }
            }
            () = until(deadline) => {
                if let Some((kind, stream)) = pairs.give_up() {
                    give_up(&session.queue, kind, stream).await;
                }
            }
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => pending().await,
    }
}

/// One connection on its way.
struct Forward {
    backend: Arc<dyn Backend>,
    queue: mpsc::Sender<Parcel>,
    pod: String,
    port: u16,
}

impl Forward {
    async fn run(self, data: Stream, error: Stream) {
        let Stream { id, inbox, outbox, gone, .. } = data;
        let connection = Box::new(Connection { inbox, outbox });
        let outcome = tokio::select! {
            biased;
            () = gone.cancelled() => Ok(()),
            outcome = self.backend.port_forward(&self.pod, self.port, connection) => outcome,
        };
        let last = match outcome {
            Ok(()) => [Parcel::End(id), Parcel::End(error.id)],
            Err(failure) => {
                let text =
                    format!("cannot forward to port {} of pod {}: {failure}", self.port, self.pod);
                say(error.outbox, &text).await;
                [Parcel::Cancel(id), Parcel::End(error.id)]
            }
        };
        // Whatever the client has not ended of it is given up.
        for parcel in last.into_iter().chain([Parcel::Cancel(id), Parcel::Cancel(error.id)]) {
            if self.queue.send(parcel).await.is_err() {
                return;
            }
        }
    }
}

async fn give_up(queue: &mpsc::Sender<Parcel>, kind: Kind, stream: Stream) {
    let id = stream.id;
    if kind == Kind::Error {
        say(stream.outbox, "the other stream of this connection did not come in time").await;
    }
    cancel(queue, id).await;
}

async fn say(mut error: Outbox, text: &str) {
    let said = async {
        error.write_all(text.as_bytes()).await?;
        error.shutdown().await
    };
    if let Err(error) = said.await {
        tracing::debug!(%error, "a client was gone before it was told why its connection failed");
    }
}

async fn cancel(queue: &mpsc::Sender<Parcel>, stream: u32) {
    // A session that is over has no streams.
    let _over = queue.send(Parcel::Cancel(stream)).await;
}
