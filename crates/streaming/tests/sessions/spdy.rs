//! A small SPDY client. It is written anew from the protocol, so that the server's errors are not its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::{Semaphore, mpsc};

use crate::backend::check;
use crate::dictionary;
use crate::upgrade::{Io, ask, spdy};

const WINDOW: usize = 65536;

/// How a client treats windows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Windows {
    /// As those written in Go: it neither keeps to them nor opens any.
    Ignored,
    /// As the protocol says.
    Kept,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Reply,
    Data(Vec<u8>),
    End,
    Reset(u32),
}

type Io2 = Box<dyn Io>;

pub(crate) struct Client {
    write: Arc<tokio::sync::Mutex<WriteHalf<Io2>>>,
    compress: Compress,
    next: u32,
    shared: Arc<Shared>,
    windows: Windows,
    pongs: mpsc::UnboundedReceiver<u32>,
    reader: tokio::task::JoinHandle<Option<u32>>,
}

struct Shared {
    streams: Mutex<HashMap<u32, Peer>>,
    session: Arc<Semaphore>,
    replies: Mutex<Decompress>,
}

struct Peer {
    events: mpsc::Sender<Event>,
    may_send: Arc<Semaphore>,
}

pub(crate) struct Stream {
    pub(crate) id: u32,
    pub(crate) events: mpsc::Receiver<Event>,
    may_send: Arc<Semaphore>,
}

impl Stream {
    /// Reads to the end beside whatever the test does, checking that it is the pattern; gives the length.
    pub(crate) fn check_aside(&mut self) -> tokio::task::JoinHandle<usize> {
        let mut events = std::mem::replace(&mut self.events, mpsc::channel(1).1);
        tokio::spawn(async move {
            let mut at = 0;
            while let Some(Event::Data(bytes)) = events.recv().await {
                check(at, &bytes);
                at += bytes.len();
            }
            at
        })
    }

    /// Everything until the end.
    pub(crate) async fn all(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match self.events.recv().await.expect("the session ended before the stream") {
                Event::Data(bytes) => all.extend(bytes),
                Event::End => return all,
                other => panic!("{other:?} on stream {}", self.id),
            }
        }
    }

    pub(crate) async fn text(&mut self) -> String {
        String::from_utf8(self.all().await).unwrap()
    }
}

impl Client {
    pub(crate) async fn dial(url: &str, versions: &[&str], windows: Windows) -> Self {
        let (answer, io) = ask(url, &spdy(versions)).await;
        assert_eq!(answer.status, 101, "{}", answer.head);
        assert_eq!(answer.header("x-stream-protocol-version"), versions.first().copied());
        Self::over(io, windows).await
    }

    pub(crate) async fn over<T: Io>(io: T, windows: Windows) -> Self {
        let (read, write) = tokio::io::split(Box::new(io) as Io2);
        let write = Arc::new(tokio::sync::Mutex::new(write));
        let shared = Arc::new(Shared {
            streams: Mutex::default(),
            session: Arc::new(Semaphore::new(WINDOW)),
            replies: Mutex::new(Decompress::new(true)),
        });
        let (pong, pongs) = mpsc::unbounded_channel();
        let reading = Reading {
            read,
            shared: shared.clone(),
            write: write.clone(),
            pong,
            windows,
            held: HashMap::new(),
        };
        let mut compress = Compress::new(Compression::best(), true);
        compress.set_dictionary(&dictionary::dictionary()).unwrap();
        let mut client = Self {
            write,
            compress,
            next: 1,
            shared,
            windows,
            pongs,
            reader: tokio::spawn(reading.run()),
        };
        if windows == Windows::Kept {
            client.control(4, 0, &[0, 0, 0, 1, 0, 0, 0, 7, 0, 1, 0, 0]).await;
        }
        client
    }

    async fn send(&self, bytes: &[u8]) {
        let mut write = self.write.lock().await;
        write.write_all(bytes).await.unwrap();
        write.flush().await.unwrap();
    }

    pub(crate) async fn control(&mut self, kind: u8, flags: u8, payload: &[u8]) {
        self.send(&control(kind, flags, payload)).await;
    }

    /// Opens a stream without waiting for the reply.
    pub(crate) async fn begin(&mut self, headers: &[(&str, &str)]) -> Stream {
        let id = self.next;
        self.next += 2;
        let (events, receiver) = mpsc::channel(16);
        let may_send = Arc::new(Semaphore::new(WINDOW));
        let peer = Peer { events, may_send: may_send.clone() };
        self.shared.streams.lock().unwrap().insert(id, peer);
        let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
        for (name, value) in headers {
            for part in [name, value] {
                plain.extend((part.len() as u32).to_be_bytes());
                plain.extend(part.as_bytes());
            }
        }
        let mut payload = id.to_be_bytes().to_vec();
        payload.extend([0; 6]);
        payload.reserve(1000);
        self.compress.compress_vec(&plain, &mut payload, FlushCompress::Sync).unwrap();
        self.control(1, 0, &payload).await;
        Stream { id, events: receiver, may_send }
    }

    /// Opens a stream that the server takes.
    pub(crate) async fn open(&mut self, headers: &[(&str, &str)]) -> Stream {
        let mut stream = self.begin(headers).await;
        assert_eq!(stream.events.recv().await, Some(Event::Reply));
        stream
    }

    pub(crate) async fn typed(&mut self, kind: &str) -> Stream {
        self.open(&[("streamtype", kind)]).await
    }

    /// Sends bytes, and the end after them if `end`.
    pub(crate) async fn data(&self, stream: &Stream, mut bytes: &[u8], end: bool) {
        loop {
            let mut count = bytes.len();
            if self.windows == Windows::Kept && count > 0 {
                count = count.min(16384);
                let wanted = count as u32;
                self.shared.session.acquire_many(wanted).await.unwrap().forget();
                stream.may_send.acquire_many(wanted).await.unwrap().forget();
            }
            let (now, later) = bytes.split_at(count);
            let last = later.is_empty();
            let mut frame = stream.id.to_be_bytes().to_vec();
            frame.push((end && last).into());
            frame.extend(&(count as u32).to_be_bytes()[1..]);
            frame.extend(now);
            self.send(&frame).await;
            bytes = later;
            if last {
                return;
            }
        }
    }

    pub(crate) async fn end(&self, stream: &Stream) {
        self.data(stream, b"", true).await;
    }

    pub(crate) async fn reset(&mut self, stream: &Stream) {
        let payload = [stream.id.to_be_bytes(), 5_u32.to_be_bytes()].concat();
        self.control(3, 0, &payload).await;
    }

    pub(crate) async fn ping(&mut self, id: u32) {
        self.control(6, 0, &id.to_be_bytes()).await;
        assert_eq!(self.pongs.recv().await, Some(id));
    }

    /// The server's own pings from now on.
    pub(crate) fn pings(&mut self) -> mpsc::UnboundedReceiver<u32> {
        std::mem::replace(&mut self.pongs, mpsc::unbounded_channel().1)
    }

    /// Waits until the server ends the session; gives the status of its GOAWAY.
    pub(crate) async fn ended(self) -> Option<u32> {
        self.reader.await.unwrap()
    }
}

pub(crate) fn control(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80, 3, 0, kind, flags];
    frame.extend(&(payload.len() as u32).to_be_bytes()[1..]);
    frame.extend(payload);
    frame
}

struct Reading {
    read: ReadHalf<Io2>,
    shared: Arc<Shared>,
    write: Arc<tokio::sync::Mutex<WriteHalf<Io2>>>,
    pong: mpsc::UnboundedSender<u32>,
    windows: Windows,
    /// What was taken of each window and not given back.
    held: HashMap<u32, usize>,
}

impl Reading {
    async fn run(mut self) -> Option<u32> {
        let mut goodbye = None;
        let mut head = [0; 8];
        while self.read.read_exact(&mut head).await.is_ok() {
            let number = u32::from_be_bytes(*head.first_chunk().unwrap());
            let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
            let mut payload = vec![0; length];
            self.read.read_exact(&mut payload).await.unwrap();
            let words: Vec<u32> = payload
                .chunks_exact(4)
                .map(|word| u32::from_be_bytes(*word.first_chunk().unwrap()))
                .collect();
            match number {
                0x8003_0002 => self.reply(&payload).await,
                0x8003_0003 => self.tell(words[0], Event::Reset(words[1])).await,
                0x8003_0006 => drop(self.pong.send(words[0])),
                0x8003_0007 => goodbye = Some(words[1]),
                0x8003_0009 => self.widen(words[0], words[1]),
                stream if stream >> 31 == 0 => {
                    self.take(stream, length).await;
                    if length > 0 {
                        self.tell(stream, Event::Data(payload)).await;
                    }
                    if head[4] & 1 != 0 {
                        self.tell(stream, Event::End).await;
                    }
                }
                other => panic!("frame {other:x}"),
            }
        }
        // Nothing more can come.
        self.shared.streams.lock().unwrap().clear();
        goodbye
    }

    async fn reply(&mut self, payload: &[u8]) {
        let mut plain = Vec::with_capacity(1000);
        {
            let mut replies = self.shared.replies.lock().unwrap();
            let block = &payload[4..];
            let first = replies.decompress_vec(block, &mut plain, FlushDecompress::Sync);
            if first.is_err_and(|error| error.needs_dictionary().is_some()) {
                replies.set_dictionary(&dictionary::dictionary()).unwrap();
                let done = replies.total_in() as usize;
                replies.decompress_vec(&block[done..], &mut plain, FlushDecompress::Sync).unwrap();
            }
        }
        assert_eq!(plain, [0; 4], "a reply has no headers");
        self.tell(u32::from_be_bytes(*payload.first_chunk().unwrap()), Event::Reply).await;
    }

    fn widen(&self, stream: u32, delta: u32) {
        let streams = self.shared.streams.lock().unwrap();
        match (stream, streams.get(&stream)) {
            (0, _) => self.shared.session.add_permits(delta as usize),
            (_, Some(peer)) => peer.may_send.add_permits(delta as usize),
            (_, None) => {}
        }
    }

    /// Counts what came, and opens the windows again when they are nearly closed.
    async fn take(&mut self, stream: u32, count: usize) {
        for window in [0, stream] {
            let held = self.held.entry(window).or_default();
            *held += count;
            if self.windows == Windows::Ignored {
                continue;
            }
            assert!(*held <= WINDOW, "the server sent more than window {window} lets it");
            if *held > WINDOW / 2 {
                let payload = [window.to_be_bytes(), (*held as u32).to_be_bytes()].concat();
                *held = 0;
                let mut write = self.write.lock().await;
                write.write_all(&control(9, 0, &payload)).await.unwrap();
            }
        }
    }

    async fn tell(&mut self, stream: u32, event: Event) {
        let peer = self.shared.streams.lock().unwrap().get(&stream).map(|peer| peer.events.clone());
        if let Some(peer) = peer {
            // The test has seen enough of this stream.
            let _unwanted = peer.send(event).await;
        }
    }
}

impl Client {
    /// Closes the connection without a word.
    pub(crate) async fn vanish(self) {
        self.reader.abort();
        let _aborted = self.reader.await;
    }
}
