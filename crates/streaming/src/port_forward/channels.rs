//! Port-forward in WebSocket channels: one connection for each port that the request names, with a channel for
//! its bytes and the next one for what went wrong. Each begins with the port, little endian.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::Connection;
use crate::ended::{Ended, together};
use crate::http::Site;
use crate::inbox::{Inbox, inbox};
use crate::outbox::{Open, Outbox, Parcel, queue};
use crate::pulse::Pace;
use crate::websocket::{self, Channels, Codec};
use crate::{Backend, PortForward};

/// How many ports there are channels for.
pub(super) const PORTS: usize = 127;

pub(super) async fn serve<T>(io: T, wanted: PortForward, codec: Codec, site: &Site) -> Ended
where
    T: AsyncRead + AsyncWrite + Send + Unpin,
{
    let (sender, parcels) = queue();
    let (mut feeds, mut connections) = (Vec::new(), Vec::new());
    for (channel, port) in (0..).step_by(2).zip(&wanted.ports) {
        let (feed, inbox) = inbox(None);
        feeds.extend([Some(feed), None]);
        let pair = Pair { channel, port: *port, queue: sender.clone() };
        connections.push(pair.run(&site.backend, &wanted.pod, inbox));
    }
    let handle = async {
        join_all(connections).await;
        let _over = sender.send(Parcel::Goodbye).await;
    };
    let channels = Channels { feeds, codec, closes: false };
    let socket = websocket::open(io).await;
    let drive = channels.drive(socket, parcels, Pace::of(&site.config));
    together(handle, drive).await
}

struct Pair {
    channel: u32,
    port: u16,
    queue: mpsc::Sender<Parcel>,
}

impl Pair {
    async fn run(self, backend: &Arc<dyn Backend>, pod: &str, inbox: Inbox) {
        let outbox = |channel| Outbox::new(channel, self.queue.clone(), Arc::new(Open));
        let port = self.port.to_le_bytes();
        let (data, mut error) = (outbox(self.channel), outbox(self.channel + 1));
        for channel in [self.channel, self.channel + 1] {
            if self.queue.send(Parcel::Data(channel, port.to_vec())).await.is_err() {
                return;
            }
        }
        let connection = Connection { inbox, outbox: data };
        let forwarding = backend.port_forward(pod, self.port, Box::new(connection));
        if let Err(failure) = forwarding.await {
            let text = format!("cannot forward to port {} of pod {pod}: {failure}", self.port);
            if let Err(error) = error.write_all(text.as_bytes()).await {
                tracing::debug!(%error, "a client was gone before it was told why its connection failed");
            }
        }
    }
}
