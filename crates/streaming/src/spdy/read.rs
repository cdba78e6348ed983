//! The reading side of a session: frames to streams.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader, ReadHalf};
use tokio::sync::mpsc;

use super::frame::{Control, HEAD, Head, Reset};
use super::headers::{Headers, Inflater};
use super::session::Stream;
use super::table::{Opened, Table};
use crate::ended::Ended;
use crate::inbox::inbox;
use crate::outbox::{Outbox, Parcel};
use crate::pulse::Pulse;

const BUFFER: usize = 32 << 10;

/// Reads from the client.
pub(super) struct Reader<T> {
    io: BufReader<ReadHalf<T>>,
    table: Arc<Table>,
    pulse: Arc<Pulse>,
    answers: mpsc::Sender<Control>,
    inflater: Inflater,
}

/// Where new streams go, and what they write to.
struct Ports {
    opened: mpsc::Sender<Stream>,
    queue: mpsc::Sender<Parcel>,
}

impl<T: AsyncRead> Reader<T> {
    pub(super) fn new(
        io: ReadHalf<T>,
        (table, pulse): (Arc<Table>, Arc<Pulse>),
        answers: mpsc::Sender<Control>,
    ) -> Self {
        Self {
            io: BufReader::with_capacity(BUFFER, io),
            table,
            pulse,
            answers,
            inflater: Inflater::new(),
        }
    }

    /// Reads until the client is gone or wrong.
    pub(super) async fn run(
        mut self,
        opened: mpsc::Sender<Stream>,
        queue: mpsc::Sender<Parcel>,
    ) -> Ended {
        let ports = Ports { opened, queue };
        loop {
            if let Err(ended) = self.frame(&ports).await {
                return ended;
            }
        }
    }

    async fn frame(&mut self, ports: &Ports) -> Result<(), Ended> {
        let mut head = [0; HEAD];
        match self.io.read_exact(&mut head).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(Ended::Gone),
            Err(error) => return Err(error.into()),
        }
        match Head::parse(head)? {
            Head::Data { stream, fin, length } => {
                self.pulse.beat();
                self.data(stream, length).await?;
                if fin {
                    self.table.heard(stream);
                }
                Ok(())
            }
            Head::Control { kind, flags, length } => {
                let mut payload = vec![0; length];
                self.io.read_exact(&mut payload).await?;
                let control = Control::parse(kind, flags, &payload, &mut self.inflater)?;
                self.control(control, ports).await
            }
        }
    }

    /// Passes on the bytes of a data frame, as they come.
    async fn data(&mut self, stream: u32, mut left: usize) -> Result<(), Ended> {
        let feed = self.table.feed(stream);
        if let Err(false) = feed {
            self.reset(stream, Reset::Invalid).await;
        }
        while left > 0 {
            if let Ok(feed) = &feed {
                poll_fn(|cx| feed.poll_room(cx)).await;
            }
            let bytes = self.io.fill_buf().await?;
            if bytes.is_empty() {
                return Err(Ended::Gone);
            }
            let count = bytes.len().min(left);
            if let Ok(feed) = &feed {
                feed.push(&bytes[..count]);
            }
            self.io.consume(count);
            self.table.received(count);
            self.pulse.beat();
            left -= count;
        }
        Ok(())
    }

    async fn control(&mut self, control: Control, ports: &Ports) -> Result<(), Ended> {
        // An answer to a ping of ours says that the client is there, not that it does anything.
        if !matches!(control, Control::Ping(id) if id.is_multiple_of(2)) {
            self.pulse.beat();
        }
        match control {
            Control::SynStream { stream, fin, unidirectional, headers } => {
                self.opened(stream, unidirectional, headers, ports).await?;
                if fin {
                    self.table.heard(stream);
                }
            }
            Control::Headers { stream, fin: true, .. } => self.table.heard(stream),
            Control::RstStream { stream, .. } => {
                self.table.reset(stream);
            }
            Control::Settings { initial_window: Some(size) } => self.table.resize(size),
            Control::Ping(id) if !id.is_multiple_of(2) => self.answer(Control::Ping(id)).await,
            Control::WindowUpdate { stream, delta } => match self.table.widen(stream, delta) {
                Ok(()) => {}
                Err(_) if stream == 0 => return Err(Ended::Window),
                Err(reset) => {
                    self.table.reset(stream);
                    self.reset(stream, reset).await;
                }
            },
            // We open no streams. A client that says goodbye resets its streams or closes the connection.
            Control::SynReply { .. }
            | Control::Headers { .. }
            | Control::Settings { .. }
            | Control::Ping(_)
            | Control::GoAway { .. }
            | Control::Other => {}
        }
        Ok(())
    }

    async fn opened(
        &mut self,
        id: u32,
        said: bool,
        headers: Headers,
        ports: &Ports,
    ) -> Result<(), Ended> {
        let table = self.table.clone();
        let (feed, inbox) = inbox(Some(Box::new(move |count| table.read(id, count))));
        let gone = match self.table.open(id, feed, said) {
            Opened::Stream(gone) => gone,
            Opened::Full => {
                self.reset(id, Reset::Refused).await;
                return Ok(());
            }
            Opened::Misnumbered => return Err(Ended::Misnumbered(id)),
        };
        let stream = Stream {
            id,
            headers,
            inbox,
            outbox: Outbox::new(id, ports.queue.clone(), Arc::new(self.table.clone())),
            gone,
            answers: self.answers.clone(),
            table: self.table.clone(),
        };
        if let Err(mpsc::error::SendError(stream)) = ports.opened.send(stream).await {
            stream.refuse().await;
        }
        Ok(())
    }

    async fn reset(&mut self, stream: u32, status: Reset) {
        let status = status as u32;
        self.answer(Control::RstStream { stream, status }).await;
    }

    async fn answer(&mut self, control: Control) {
        // The writer ends with the connection, and then so does the reader.
        let _over = self.answers.send(control).await;
    }
}
