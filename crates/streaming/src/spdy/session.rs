//! A session: one connection, the streams that its client opens, and the future that moves their frames.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::frame::{Control, Farewell, Reset};
use super::headers::Headers;
use super::read::Reader;
use super::table::Table;
use super::write::Writer;
use crate::ended::Ended;
use crate::inbox::Inbox;
use crate::outbox::{Outbox, Parcel, queue};
use crate::pulse::{LINGER, Pace, Pulse};

/// How many frames that answer the client's wait for the connection, and how many new streams for whoever
/// takes them. Beyond that, the client is not read from.
const ANSWERS: usize = 64;
const NEW: usize = 16;

/// What a session's handler works with.
pub(crate) struct Session {
    /// The streams that the client opens. Those that come when this was dropped are refused.
    pub(crate) streams: mpsc::Receiver<Stream>,
    /// For what is sent by a stream's number, and for [`Parcel::Goodbye`].
    pub(crate) queue: mpsc::Sender<Parcel>,
}

/// A stream that the client has opened. It must be accepted or refused.
pub(crate) struct Stream {
    pub(crate) id: u32,
    pub(crate) headers: Headers,
    pub(crate) inbox: Inbox,
    pub(crate) outbox: Outbox,
    /// The stream was reset, or the session is over.
    pub(crate) gone: CancellationToken,
    pub(super) answers: mpsc::Sender<Control>,
    pub(super) table: Arc<Table>,
}

impl Stream {
    /// Tells the client that the stream is taken.
    pub(crate) async fn accept(&self) {
        let (stream, fin, headers) = (self.id, false, Headers::default());
        let reply = Control::SynReply { stream, fin, headers };
        // A session that is over needs no answer.
        let _over = self.answers.send(reply).await;
    }

    /// Tells the client that the stream is not wanted.
    pub(crate) async fn refuse(self) {
        self.table.reset(self.id);
        let (stream, status) = (self.id, Reset::Refused as u32);
        let _over = self.answers.send(Control::RstStream { stream, status }).await;
    }
}

/// Makes a session over `io`, and the future that drives it until it ends.
pub(crate) fn session<T>(io: T, pace: Pace) -> (Session, impl Future<Output = Ended> + Send)
where
    T: AsyncRead + AsyncWrite + Send + Unpin,
{
    let (read, write) = tokio::io::split(io);
    let (answers, answering) = mpsc::channel(ANSWERS);
    let (opened, streams) = mpsc::channel(NEW);
    let (sender, parcels) = queue();
    let (table, pulse) = (Arc::new(Table::new()), Arc::new(Pulse::new()));
    let reader = Reader::new(read, (table.clone(), pulse.clone()), answers.clone());
    let writer = Writer::new(write, (table.clone(), pulse.clone()), answering, parcels);
    let session = Session { streams, queue: sender.clone() };
    let drive = async move {
        let _end = EndOnDrop(table.clone());
        let reading = reader.run(opened, sender);
        let writing = writer.run(pace);
        tokio::pin!(reading, writing);
        let ended = tokio::select! {
            ended = &mut reading => ended,
            written = &mut writing => return match written {
                // What the client still sends is taken, so that closing does not cut off what it has not read.
                Ok(()) => match tokio::time::timeout(LINGER, reading).await {
                    Ok(_) | Err(_) => Ended::Fine,
                },
                Err(error) => Ended::Connection(error),
            },
            () = pulse.stopped(pace.idle()) => return Ended::Idle(pace.idle()),
        };
        table.end();
        if ended.is_protocol() {
            let (last, status) = (table.last(), Farewell::Protocol as u32);
            let farewell = async {
                let _over = answers.send(Control::GoAway { last, status }).await;
                std::future::pending::<()>().await;
            };
            let told = async {
                tokio::select! { _ = writing => {}, () = farewell => {} }
            };
            let _too_slow = tokio::time::timeout(LINGER, told).await;
        }
        ended
    };
    (session, drive)
}

/// Whoever still holds a stream of a session that is dropped must not wait for it.
struct EndOnDrop(Arc<Table>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}
