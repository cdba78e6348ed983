//! A backend that does what its command says.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use berth_streaming::{
    Attach, Backend, BoxDuplex, BoxRead, BoxWrite, Config, Exec, Failure, PortForward, Server,
    Streams,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

/// How much is a large transfer.
pub(crate) const LARGE: usize = 100 << 20;

/// What the backend tells of a session that it cannot tell its client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Started,
    Dropped,
}

pub(crate) struct Stand(mpsc::UnboundedSender<Event>);

/// A server, and what its backend tells.
pub(crate) struct Site {
    pub(crate) server: Server,
    pub(crate) events: mpsc::UnboundedReceiver<Event>,
}

pub(crate) async fn site(config: Config) -> Site {
    let (sender, events) = mpsc::unbounded_channel();
    let server = Server::bind(config, Arc::new(Stand(sender))).await.unwrap();
    Site { server, events }
}

pub(crate) async fn plain() -> Site {
    site(Config::default()).await
}

/// No test waits for that long; it only has to end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) fn exec(command: &[&str], streams: &str) -> Exec {
    Exec {
        container: "c".to_owned(),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        tty: streams.contains("tty"),
        stdin: streams.contains("stdin"),
        stdout: streams.contains("stdout"),
        stderr: streams.contains("stderr"),
    }
}

pub(crate) fn forward(ports: &[u16]) -> PortForward {
    PortForward { pod: "p".to_owned(), ports: ports.to_vec() }
}

/// What large transfers consist of: a stretch without a pattern, again and again. Its length is a prime, so that
/// nothing that is lost or doubled goes unseen.
static STRETCH: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let byte = |at: u64| ((at ^ (at >> 13)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
    (0..1_000_003).map(byte).collect()
});

/// Whether `bytes` stand at `at` in a large transfer.
pub(crate) fn check(at: usize, bytes: &[u8]) {
    assert!(bytes == piece(at, bytes.len()), "{} bytes at {at}", bytes.len());
}

/// A piece of a large transfer.
pub(crate) fn piece(mut at: usize, length: usize) -> Vec<u8> {
    let mut piece = Vec::with_capacity(length);
    while piece.len() < length {
        let rest = &STRETCH[at % STRETCH.len()..];
        let more = &rest[..rest.len().min(length - piece.len())];
        piece.extend_from_slice(more);
        at += more.len();
    }
    piece
}

struct Guard(mpsc::UnboundedSender<Event>);

impl Drop for Guard {
    fn drop(&mut self) {
        let _nobody_asks = self.0.send(Event::Dropped);
    }
}

fn failed(error: std::io::Error) -> Failure {
    Failure(error.to_string())
}

#[async_trait]
impl Backend for Stand {
    async fn exec(&self, request: Exec, streams: Streams) -> Result<i32, Failure> {
        let _guard = Guard(self.0.clone());
        let _nobody_asks = self.0.send(Event::Started);
        let words: Vec<&str> = request.command.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["exit", code] => Ok(code.parse().unwrap()),
            ["fail", why] => Err(Failure((*why).to_owned())),
            ["hang"] => std::future::pending().await,
            ["deaf"] => {
                let _stdin = streams.stdin;
                std::future::pending().await
            }
            ["both"] => both(streams.stdout.unwrap(), streams.stderr.unwrap()).await,
            ["cat"] => cat(streams.stdin.unwrap(), streams.stdout.unwrap()).await,
            ["sizes", count] => sizes(streams, count.parse().unwrap()).await,
            ["give"] => give(streams.stdout.unwrap()).await,
            ["take"] => take(streams.stdin.unwrap(), streams.stdout.unwrap()).await,
            _ => panic!("{words:?}"),
        }
    }

    async fn attach(&self, request: Attach, streams: Streams) -> Result<(), Failure> {
        if request.container != "c" {
            return Err(Failure(format!("container {} does not run", request.container)));
        }
        cat(streams.stdin.unwrap(), streams.stdout.unwrap()).await.map(|_| ())
    }

    async fn port_forward(
        &self,
        pod: &str,
        port: u16,
        connection: BoxDuplex,
    ) -> Result<(), Failure> {
        assert_eq!(pod, "p");
        let _guard = Guard(self.0.clone());
        let _nobody_asks = self.0.send(Event::Started);
        let (mut read, mut write) = tokio::io::split(connection);
        match port {
            // What comes is sent back, then the end.
            7 => {
                tokio::io::copy(&mut read, &mut write).await.map_err(failed)?;
                write.shutdown().await.map_err(failed)
            }
            // Closed at once.
            9 => Ok(()),
            // Says something after the client has said all.
            80 => {
                let mut request = String::new();
                read.read_to_string(&mut request).await.map_err(failed)?;
                let answer = format!("answer to {request}");
                write.write_all(answer.as_bytes()).await.map_err(failed)
            }
            82 => panic!("as the test wants it"),
            // Reads nothing.
            81 => std::future::pending().await,
            _ => Err(Failure("connection refused".to_owned())),
        }
    }
}

async fn cat(mut stdin: BoxRead, mut stdout: BoxWrite) -> Result<i32, Failure> {
    tokio::io::copy(&mut stdin, &mut stdout).await.map_err(failed)?;
    Ok(0)
}

async fn both(mut stdout: BoxWrite, mut stderr: BoxWrite) -> Result<i32, Failure> {
    stdout.write_all(b"to stdout").await.map_err(failed)?;
    stderr.write_all(b"to stderr").await.map_err(failed)?;
    Ok(0)
}

async fn sizes(streams: Streams, count: usize) -> Result<i32, Failure> {
    let (mut resize, mut stdout) = (streams.resize, streams.stdout.unwrap());
    for _ in 0..count {
        let size = resize.recv().await.ok_or_else(|| Failure("no size".to_owned()))?;
        let text = format!("{}x{}\n", size.columns, size.rows);
        stdout.write_all(text.as_bytes()).await.map_err(failed)?;
    }
    Ok(0)
}

async fn give(mut stdout: BoxWrite) -> Result<i32, Failure> {
    let mut at = 0;
    while at < LARGE {
        // Sizes that fit nothing.
        let bytes = piece(at, (LARGE - at).min(50_021));
        stdout.write_all(&bytes).await.map_err(failed)?;
        at += bytes.len();
    }
    Ok(0)
}

async fn take(mut stdin: BoxRead, mut stdout: BoxWrite) -> Result<i32, Failure> {
    let (mut at, mut bytes) = (0, vec![0; 70_001]);
    loop {
        match stdin.read(&mut bytes).await.map_err(failed)? {
            0 => break,
            count => {
                check(at, &bytes[..count]);
                at += count;
            }
        }
    }
    stdout.write_all(at.to_string().as_bytes()).await.map_err(failed)?;
    Ok(0)
}

/// A backend whose sessions nobody watches.
pub(crate) fn nobody() -> Stand {
    Stand(mpsc::unbounded_channel().0)
}
