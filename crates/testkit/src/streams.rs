//! A client of Exec, Attach and PortForward: both transports, by hand, with just enough of each.

mod call;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{
    AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, ReadHalf, WriteHalf,
};
use tokio::sync::watch;

pub use call::{Call, Duplex, connect};

use crate::node::Node;

/// Longer than anything that a test waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// How the streams are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// SPDY/3.1, as the kubelet and older clients speak it.
    Spdy,
    /// WebSocket, `v5.channel.k8s.io`.
    WebSocket,
}

impl Transport {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Spdy, Self::WebSocket];
}

/// What came on one stream so far.
#[derive(Clone, Debug, Default)]
pub struct Incoming {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// No more will come.
    pub ended: bool,
}

#[derive(Debug, Default)]
struct Inbox {
    streams: BTreeMap<u32, Incoming>,
    over: bool,
}

/// A connection with several streams.
#[derive(Debug)]
struct Mux {
    transport: Transport,
    write: WriteHalf<Box<dyn Duplex>>,
    inbox: watch::Receiver<Inbox>,
    reader: tokio::task::JoinHandle<()>,
    /// The reader reads only while this is true.
    reads: watch::Sender<bool>,
    next: u32,
}

impl Drop for Mux {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Mux {
    async fn upgrade(call: Call, transport: Transport, protocol: &str) -> Result<Self> {
        let Call { socket, host, path } = call;
        let (method, upgrade) = match transport {
            Transport::Spdy => {
                ("POST", format!("Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {protocol}"))
            }
            Transport::WebSocket => (
                "GET",
                format!(
                    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: \
                     dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {protocol}"
                ),
            ),
        };
        let (read, mut write) = tokio::io::split(socket);
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\n{upgrade}\r\n\r\n"
        );
        write.write_all(head.as_bytes()).await?;
        let mut read = BufReader::with_capacity(64 << 10, read);
        let mut answer = String::new();
        while !answer.ends_with("\r\n\r\n") {
            ensure!(read.read_line(&mut answer).await? > 0, "the answer ends: {answer}");
        }
        if !answer.starts_with("HTTP/1.1 101 ") {
            let mut why = vec![0; 4096];
            let length = read.read(&mut why).await.unwrap_or_default();
            bail!("no upgrade: {answer}{}", String::from_utf8_lossy(&why[..length]));
        }
        let (tell, inbox) = watch::channel(Inbox::default());
        let (reads, may_read) = watch::channel(true);
        let reader = Reader { read, tell, may_read, transport };
        let reader = tokio::spawn(reader.run());
        Ok(Self { transport, write, inbox, reader, reads, next: 1 })
    }

    /// Opens a SPDY stream. Its headers are "compressed" into stored blocks (RFC 1951, 3.2.4), which
    /// need no dictionary.
    async fn open(&mut self, headers: &[(&str, &str)]) -> Result<u32> {
        let id = self.next;
        self.next += 2;
        let mut plain = u32::try_from(headers.len())?.to_be_bytes().to_vec();
        for (name, value) in headers {
            for part in [name, value] {
                plain.extend(u32::try_from(part.len())?.to_be_bytes());
                plain.extend(part.as_bytes());
            }
        }
        let mut payload = id.to_be_bytes().to_vec();
        payload.extend([0; 6]);
        if id == 1 {
            payload.extend([0x78, 0x01]);
        }
        let length = u16::try_from(plain.len())?;
        payload.push(0);
        payload.extend(length.to_le_bytes());
        payload.extend((!length).to_le_bytes());
        payload.extend(plain);
        // An empty block is what makes some readers give out what came before it.
        payload.extend([0, 0, 0, 0xff, 0xff]);
        let mut frame = vec![0x80, 3, 0, 1, 0];
        frame.extend(&u32::try_from(payload.len())?.to_be_bytes()[1..]);
        frame.extend(payload);
        self.write.write_all(&frame).await?;
        Ok(id)
    }

    async fn send(&mut self, stream: u32, bytes: &[u8], end: bool) -> Result<()> {
        let mut frame = Vec::with_capacity(bytes.len() + 16);
        match self.transport {
            Transport::Spdy => {
                frame.extend(stream.to_be_bytes());
                frame.push(end.into());
                frame.extend(&u32::try_from(bytes.len())?.to_be_bytes()[1..]);
                frame.extend(bytes);
            }
            Transport::WebSocket => {
                if !bytes.is_empty() {
                    message(&mut frame, 2, u8::try_from(stream)?, bytes)?;
                }
                if end {
                    message(&mut frame, 2, 255, &[u8::try_from(stream)?])?;
                }
            }
        }
        self.write.write_all(&frame).await?;
        Ok(())
    }

    /// Waits until this is true of a stream, or nothing more can come of it.
    async fn until(&mut self, stream: u32, what: impl Fn(&Incoming) -> bool) -> Result<Incoming> {
        let nothing = Incoming::default();
        let enough = |inbox: &Inbox| {
            let incoming = inbox.streams.get(&stream).unwrap_or(&nothing);
            inbox.over || incoming.ended || what(incoming)
        };
        let waited =
            tokio::time::timeout(crate::patience::here(PATIENCE), self.inbox.wait_for(enough))
                .await;
        let inbox = waited.context("it does not come")?.context("the reader panicked")?;
        Ok(inbox.streams.get(&stream).cloned().unwrap_or_default())
    }
}

/// A message of WebSocket, masked with zeros; the first byte of its payload is apart.
fn message(into: &mut Vec<u8>, opcode: u8, first: u8, rest: &[u8]) -> Result<()> {
    into.push(0x80 | opcode);
    match rest.len() + 1 {
        short @ ..126 => into.push(0x80 | u8::try_from(short)?),
        long => {
            into.push(0x80 | 127);
            into.extend(u64::try_from(long)?.to_be_bytes());
        }
    }
    into.extend([0; 4]);
    into.push(first);
    into.extend(rest);
    Ok(())
}

struct Reader {
    read: BufReader<ReadHalf<Box<dyn Duplex>>>,
    tell: watch::Sender<Inbox>,
    may_read: watch::Receiver<bool>,
    transport: Transport,
}

impl Reader {
    async fn run(mut self) {
        // However the connection ends: nothing more comes.
        let _ = self.all().await;
        self.tell.send_modify(|inbox| inbox.over = true);
    }

    async fn all(&mut self) -> Result<()> {
        loop {
            self.may_read.wait_for(|may| *may).await?;
            match self.transport {
                Transport::Spdy => self.frame().await?,
                Transport::WebSocket => self.message().await?,
            }
        }
    }

    fn add(&self, stream: u32, bytes: &[u8], ended: bool) {
        self.tell.send_modify(|inbox| {
            let incoming = inbox.streams.entry(stream).or_default();
            incoming.bytes.extend(bytes);
            incoming.ended |= ended;
        });
    }

    async fn frame(&mut self) -> Result<()> {
        let mut head = [0; 8];
        self.read.read_exact(&mut head).await?;
        let [a, b, c, d, flags, x, y, z] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, x, y, z]) as usize];
        self.read.read_exact(&mut payload).await?;
        match u32::from_be_bytes([a, b, c, d]) {
            // RST_STREAM.
            0x8003_0003 => {
                let id = payload.first_chunk().context("a stream")?;
                self.add(u32::from_be_bytes(*id), &[], true);
            }
            control if control >> 31 == 1 => {}
            stream => self.add(stream, &payload, flags & 1 != 0),
        }
        Ok(())
    }

    async fn message(&mut self) -> Result<()> {
        let [first, second] = [self.read.read_u8().await?, self.read.read_u8().await?];
        let length = match second {
            126 => u64::from(self.read.read_u16().await?),
            127 => self.read.read_u64().await?,
            short => u64::from(short),
        };
        let mut payload = vec![0; usize::try_from(length)?];
        self.read.read_exact(&mut payload).await?;
        match (first & 0xf, payload.split_first()) {
            (2, Some((255, [stream]))) => self.add(u32::from(*stream), &[], true),
            (2, Some((stream, bytes))) => self.add(u32::from(*stream), bytes, false),
            (8, _) => bail!("closed"),
            _ => {}
        }
        Ok(())
    }
}

/// Which streams a client asks for; the same as in the CRI request.
#[derive(Clone, Copy, Debug)]
pub struct Wants {
    /// Standard input.
    pub stdin: bool,
    /// Standard error.
    pub stderr: bool,
    /// A terminal.
    pub tty: bool,
}

impl Wants {
    /// Standard output and error.
    pub const OUTPUT: Self = Self { stdin: false, stderr: true, tty: false };
    /// Those and standard input.
    pub const ALL: Self = Self { stdin: true, stderr: true, tty: false };
    /// A terminal, with input.
    pub const TTY: Self = Self { stdin: true, stderr: false, tty: true };
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// What came on stdout.
    pub stdout: Vec<u8>,
    /// What came on stderr.
    pub stderr: Vec<u8>,
    /// The exit code, or the message of a failure; none if the session was broken off.
    pub status: Option<Result<i32, String>>,
}

/// An exec or attach, from the client's side.
#[derive(Debug)]
pub struct Session {
    mux: Mux,
    stdin: u32,
    stdout: u32,
    stderr: u32,
    error: u32,
    resize: u32,
}

impl Session {
    /// Follows a URL.
    ///
    /// # Errors
    /// If the server does not upgrade the connection.
    pub async fn open(node: &Node, url: &str, how: Transport, wants: Wants) -> Result<Self> {
        Self::over(Call::dial(node, url)?, how, wants).await
    }

    /// As [`Session::open`], on a connection that there is already.
    ///
    /// # Errors
    /// As there.
    pub async fn over(call: Call, how: Transport, wants: Wants) -> Result<Self> {
        if how == Transport::WebSocket {
            let mux = Mux::upgrade(call, how, "v5.channel.k8s.io").await?;
            return Ok(Self { mux, stdin: 0, stdout: 1, stderr: 2, error: 3, resize: 4 });
        }
        let mux = Mux::upgrade(call, how, "v4.channel.k8s.io").await?;
        let mut session = Self { mux, stdin: 0, stdout: 0, stderr: 0, error: 0, resize: 0 };
        for (wanted, name) in [
            (true, "error"),
            (wants.stdin, "stdin"),
            (true, "stdout"),
            (wants.stderr, "stderr"),
            (wants.tty, "resize"),
        ] {
            if wanted {
                let id = session.mux.open(&[("streamtype", name)]).await?;
                match name {
                    "error" => session.error = id,
                    "stdin" => session.stdin = id,
                    "stdout" => session.stdout = id,
                    "stderr" => session.stderr = id,
                    _ => session.resize = id,
                }
            }
        }
        Ok(session)
    }

    /// Sends input.
    ///
    /// # Errors
    /// If the connection is broken.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.mux.send(self.stdin, bytes, false).await
    }

    /// Ends the input.
    ///
    /// # Errors
    /// If the connection is broken.
    pub async fn end(&mut self) -> Result<()> {
        self.mux.send(self.stdin, b"", true).await
    }

    /// Tells the size of the client's terminal.
    ///
    /// # Errors
    /// If the connection is broken.
    pub async fn resize(&mut self, columns: u16, rows: u16) -> Result<()> {
        let size = format!("{{\"Width\":{columns},\"Height\":{rows}}}\n");
        self.mux.send(self.resize, size.as_bytes(), false).await
    }

    /// Waits until stdout has said this.
    ///
    /// # Errors
    /// If it ends without, or says nothing for a minute.
    pub async fn says(&mut self, text: &str) -> Result<()> {
        let there = |said: &Incoming| {
            said.bytes.windows(text.len()).any(|window| window == text.as_bytes())
        };
        let said = self.mux.until(self.stdout, there).await?;
        ensure!(there(&said), "{text:?} in {:?}", String::from_utf8_lossy(&said.bytes));
        Ok(())
    }

    /// Stops reading, or goes on with it.
    pub fn read(&self, may: bool) {
        self.mux.reads.send_replace(may);
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// If it does not come within a minute.
    pub async fn ended(mut self) -> Result<Ended> {
        self.mux.until(u32::MAX, |_| false).await?;
        let mut take = async |stream| -> Result<Vec<u8>> {
            Ok(if stream == 0 { Vec::new() } else { self.mux.until(stream, |_| true).await?.bytes })
        };
        let (stdout, stderr) = (take(self.stdout).await?, take(self.stderr).await?);
        let error = take(self.error).await?;
        let status = match error.is_empty() {
            true => None,
            false => Some(status(&error)?),
        };
        Ok(Ended { stdout, stderr, status })
    }
}

/// Reads a `metav1.Status`.
fn status(text: &[u8]) -> Result<Result<i32, String>> {
    let status: serde_json::Value = serde_json::from_slice(text)
        .with_context(|| format!("a status: {:?}", String::from_utf8_lossy(text)))?;
    if status["status"] == "Success" {
        return Ok(Ok(0));
    }
    if status["reason"] == "NonZeroExitCode" {
        let code = status["details"]["causes"][0]["message"].as_str();
        return Ok(Ok(code.context("an exit code")?.parse()?));
    }
    Ok(Err(status["message"].as_str().context("a message")?.to_owned()))
}

/// A port-forward, from the client's side, over SPDY.
#[derive(Debug)]
pub struct Forward {
    mux: Mux,
    requests: u32,
}

/// One forwarded connection.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    data: u32,
    error: u32,
}

impl Forward {
    /// Follows a URL.
    ///
    /// # Errors
    /// If the server does not upgrade the connection.
    pub async fn open(node: &Node, url: &str) -> Result<Self> {
        Self::over(Call::dial(node, url)?).await
    }

    /// As [`Forward::open`], on a connection that there is already.
    ///
    /// # Errors
    /// As there.
    pub async fn over(call: Call) -> Result<Self> {
        let mux = Mux::upgrade(call, Transport::Spdy, "portforward.k8s.io").await?;
        Ok(Self { mux, requests: 0 })
    }

    /// Begins a connection to a port.
    ///
    /// # Errors
    /// If the session is broken.
    pub async fn connect(&mut self, port: u16) -> Result<Connection> {
        self.requests += 1;
        let (port, request) = (port.to_string(), self.requests.to_string());
        let headers =
            |kind| [("streamtype", kind), ("port", port.as_str()), ("requestid", request.as_str())];
        let error = self.mux.open(&headers("error")).await?;
        self.mux.send(error, b"", true).await?;
        let data = self.mux.open(&headers("data")).await?;
        Ok(Connection { data, error })
    }

    /// Sends bytes, and their end.
    ///
    /// # Errors
    /// If the session is broken.
    pub async fn send(&mut self, on: Connection, bytes: &[u8], end: bool) -> Result<()> {
        self.mux.send(on.data, bytes, end).await
    }

    /// Everything that a connection says to its end, and the text of its failure.
    ///
    /// # Errors
    /// If the end does not come within a minute.
    pub async fn all(&mut self, on: Connection) -> Result<(Vec<u8>, String)> {
        let data = self.mux.until(on.data, |_| false).await?.bytes;
        let error = self.mux.until(on.error, |_| false).await?.bytes;
        Ok((data, String::from_utf8(error)?))
    }

    /// What a connection has said, once it has said this much.
    ///
    /// # Errors
    /// If it does not within a minute.
    pub async fn some(&mut self, on: Connection, count: usize) -> Result<Vec<u8>> {
        Ok(self.mux.until(on.data, |said| said.bytes.len() >= count).await?.bytes)
    }
}
