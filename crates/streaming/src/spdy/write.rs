//! The writing side of a session: answers first, then what the streams say.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncWrite, AsyncWriteExt as _, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::Interval;

use super::frame::{Control, Farewell, Reset, append_data};
use super::headers::Deflater;
use super::table::Table;
use crate::outbox::Parcel;
use crate::pulse::{Pace, Pulse};

/// How much is written at once.
const BATCH: usize = 64 << 10;

/// Writes to the client.
pub(super) struct Writer<T> {
    io: WriteHalf<T>,
    table: Arc<Table>,
    pulse: Arc<Pulse>,
    answers: mpsc::Receiver<Control>,
    parcels: mpsc::Receiver<Parcel>,
    batch: Batch,
    ping: u32,
}

/// Frames that wait to be written.
struct Batch {
    bytes: Vec<u8>,
    deflater: Deflater,
    last: bool,
}

impl Batch {
    fn add(&mut self, control: &Control) {
        control.append(&mut self.deflater, &mut self.bytes);
        self.last |= matches!(control, Control::GoAway { .. });
    }

    fn is_full(&self) -> bool {
        self.last || self.bytes.len() >= BATCH
    }
}

impl<T: AsyncWrite> Writer<T> {
    pub(super) fn new(
        io: WriteHalf<T>,
        (table, pulse): (Arc<Table>, Arc<Pulse>),
        answers: mpsc::Receiver<Control>,
        parcels: mpsc::Receiver<Parcel>,
    ) -> Self {
        let batch = Batch { bytes: Vec::new(), deflater: Deflater::new(), last: false };
        Self { io, table, pulse, answers, parcels, batch, ping: 0 }
    }

    /// Writes until a GOAWAY is written.
    pub(super) async fn run(mut self, pace: Pace) -> io::Result<()> {
        let mut pings = pace.pings();
        while !self.batch.last {
            self.gather(&mut pings).await;
            self.io.write_all(&self.batch.bytes).await?;
            self.io.flush().await?;
            self.batch.bytes.clear();
        }
        self.io.shutdown().await
    }

    /// Waits for something to send, and takes what else there is.
    async fn gather(&mut self, pings: &mut Interval) {
        let table = self.table.clone();
        tokio::select! {
            biased;
            Some(control) = self.answers.recv() => self.batch.add(&control),
            () = table.due.notified() => {}
            Some(parcel) = self.parcels.recv() => self.parcel(parcel),
            _ = pings.tick() => {
                self.ping = self.ping.wrapping_add(2);
                self.batch.add(&Control::Ping(self.ping));
            }
        }
        for update in self.table.updates() {
            self.batch.add(&update);
        }
        while !self.batch.is_full() {
            if let Ok(control) = self.answers.try_recv() {
                self.batch.add(&control);
            } else if let Ok(parcel) = self.parcels.try_recv() {
                self.parcel(parcel);
            } else {
                return;
            }
        }
    }

    fn parcel(&mut self, parcel: Parcel) {
        match parcel {
            Parcel::Data(stream, data) if self.table.speaks(stream) => {
                self.pulse.beat();
                append_data(stream, false, &data, &mut self.batch.bytes);
            }
            Parcel::End(stream) if self.table.speaks(stream) => {
                append_data(stream, true, &[], &mut self.batch.bytes);
                self.table.said(stream);
            }
            Parcel::Cancel(stream) if self.table.reset(stream) => {
                let status = Reset::Cancel as u32;
                self.batch.add(&Control::RstStream { stream, status });
            }
            // The stream is over.
            Parcel::Data(..) | Parcel::End(_) | Parcel::Cancel(_) => {}
            Parcel::Goodbye => {
                let (last, status) = (self.table.last(), Farewell::Fine as u32);
                self.batch.add(&Control::GoAway { last, status });
            }
        }
    }
}
