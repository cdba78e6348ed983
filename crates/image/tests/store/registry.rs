//! A registry inside the test: one small HTTP/1.1 server that can be told to misbehave.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use berth_image::Digest;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::fixture::Image;

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub(crate) fn is_blob(&self) -> bool {
        self.path.contains("/blobs/")
    }

    /// Whether it carries this name and password.
    pub(crate) fn has_basic(&self, user: &str, password: &str) -> bool {
        let encoded =
            base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        self.header("authorization") == Some(&format!("Basic {encoded}"))
    }

    fn range(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// What is answered.
#[derive(Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Close the connection after so many bytes of the body.
    pub(crate) cut: Option<usize>,
    /// After half of the body, wait for a permit.
    pub(crate) gate: Option<Arc<Semaphore>>,
    /// What else is wrong with it.
    pub(crate) manner: Manner,
}

/// How an answer goes over the wire.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Manner {
    /// As it should.
    #[default]
    Whole,
    /// The connection ends within the headers.
    CutHead,
    /// No length is said: the body ends with the connection.
    NoLength,
    /// No length is said, and the body is repeated until the client has enough.
    Endless,
    /// One byte, a little pause, one byte...
    Drip,
    /// Nothing at all, until the client has enough.
    Silence,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(crate) fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub(crate) fn json(body: impl ToString) -> Self {
        let body = body.to_string().into_bytes();
        Self { status: 200, body, ..Self::default() }
    }
}

/// Decides about a request: an own reply, or the usual one.
type Rule = Box<dyn Fn(&Request, &Usual<'_>) -> Option<Reply> + Send>;
/// Gives the reply of a registry that behaves.
pub(crate) type Usual<'a> = dyn Fn(&Request) -> Reply + 'a;

#[derive(Default)]
struct Content {
    blobs: BTreeMap<String, Vec<u8>>,
    manifests: BTreeMap<String, (String, Vec<u8>)>,
    log: Vec<Request>,
    rule: Option<Rule>,
}

impl Content {
    fn usual(&self, request: &Request) -> Reply {
        let parts: Vec<&str> = request.path.rsplitn(3, '/').collect();
        let [key, kind, repository] = parts[..] else { return Reply::status(404) };
        let body = match kind {
            "blobs" => self.blobs.get(key).map(|body| ("application/octet-stream", body)),
            "manifests" => self
                .manifests
                .get(&format!("{}:{key}", repository.trim_start_matches("/v2/")))
                .or_else(|| self.manifests.get(key))
                .map(|(kind, body)| (kind.as_str(), body)),
            _ => None,
        };
        let Some((kind, body)) = body else { return Reply::status(404) };
        let digest = Digest::of(body);
        let start = request.range().filter(|start| *start < body.len()).unwrap_or(0);
        let reply = Reply { body: body[start..].to_vec(), ..Reply::status(200) }
            .with("content-type", kind)
            .with("docker-content-digest", digest);
        match start {
            0 => reply,
            _ => Reply { status: 206, ..reply }
                .with("content-range", format!("bytes {start}-{}/{}", body.len() - 1, body.len())),
        }
    }
}

/// The server; it ends with the test.
#[derive(Clone)]
pub(crate) struct Registry {
    pub(crate) address: SocketAddr,
    content: Arc<Mutex<Content>>,
}

impl Registry {
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    /// The same, with TLS.
    pub(crate) async fn start_with(tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let content: Arc<Mutex<Content>> = Arc::default();
        let served = Arc::clone(&content);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (served, tls) = (Arc::clone(&served), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, served).await,
                        // What is no handshake is no request.
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, served).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, content }
    }

    /// Takes an image in under `<repository>:<tag>`, and by digest.
    pub(crate) fn push(&self, name: &str, image: &Image) -> Digest {
        let mut content = self.content.lock().unwrap();
        content.blobs.extend(image.blobs().into_iter().map(|(d, b)| (d.to_string(), b)));
        drop(content);
        self.push_document(name, MANIFEST, &image.manifest())
    }

    pub(crate) fn push_document(&self, name: &str, kind: &str, body: &[u8]) -> Digest {
        let digest = Digest::of(body);
        let mut content = self.content.lock().unwrap();
        for key in [name.to_owned(), digest.to_string()] {
            content.manifests.insert(key, (kind.to_owned(), body.to_vec()));
        }
        digest
    }

    /// Replaces a blob's content without changing its name.
    pub(crate) fn damage(&self, digest: &Digest, change: impl FnOnce(&mut Vec<u8>)) {
        let mut content = self.content.lock().unwrap();
        change(content.blobs.get_mut(digest.as_str()).unwrap());
    }

    pub(crate) fn rule(
        &self,
        rule: impl Fn(&Request, &Usual<'_>) -> Option<Reply> + Send + 'static,
    ) {
        self.content.lock().unwrap().rule = Some(Box::new(rule));
    }

    /// The name of a repository in this registry.
    pub(crate) fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    pub(crate) fn log(&self) -> Vec<Request> {
        self.content.lock().unwrap().log.clone()
    }

    pub(crate) fn count(&self, wanted: impl Fn(&Request) -> bool) -> usize {
        self.log().iter().filter(|request| wanted(request)).count()
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

async fn serve(mut stream: impl Stream, content: Arc<Mutex<Content>>) {
    while let Some(request) = read(&mut stream).await {
        let reply = {
            let mut content = content.lock().unwrap();
            content.log.push(request.clone());
            let usual = |request: &Request| content.usual(request);
            let own = content.rule.as_ref().and_then(|rule| rule(&request, &usual));
            own.unwrap_or_else(|| usual(&request))
        };
        if write(&mut stream, &request, reply).await.is_none() {
            return;
        }
    }
}

async fn read(stream: &mut impl Stream) -> Option<Request> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let method = first.next()?.to_owned();
    let (path, query) = first.next()?.split_once('?').map_or_else(
        || (head.split(' ').nth(1).unwrap_or_default().to_owned(), String::new()),
        |(path, query)| (path.to_owned(), query.to_owned()),
    );
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.get("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    let body = String::from_utf8(body).ok()?;
    Some(Request { method, path, query, headers, body })
}

async fn write(stream: &mut impl Stream, request: &Request, reply: Reply) -> Option<()> {
    let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
    match reply.manner {
        Manner::NoLength | Manner::Endless => head.push_str("connection: close\r\n"),
        _ => head.push_str(&format!("content-length: {}\r\n", reply.body.len())),
    }
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    match reply.manner {
        Manner::CutHead => {
            stream.write_all(&head.as_bytes()[..head.len() / 2]).await.ok()?;
            return None;
        }
        Manner::Silence => {
            // Ends when the client closes the connection.
            stream.read_u8().await.ok()?;
            return None;
        }
        _ => stream.write_all(format!("{head}\r\n").as_bytes()).await.ok()?,
    }
    if request.method == "HEAD" {
        return Some(());
    }
    match reply.manner {
        Manner::NoLength => {
            stream.write_all(&reply.body).await.ok()?;
            stream.shutdown().await.ok()?;
            return None;
        }
        Manner::Endless => loop {
            stream.write_all(&reply.body).await.ok()?;
        },
        Manner::Drip => {
            for byte in &reply.body {
                stream.write_all(&[*byte]).await.ok()?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            return Some(());
        }
        _ => {}
    }
    if let Some(cut) = reply.cut {
        stream.write_all(&reply.body[..cut.min(reply.body.len())]).await.ok()?;
        stream.shutdown().await.ok()?;
        return None;
    }
    let half = if reply.gate.is_some() { reply.body.len() / 2 } else { 0 };
    stream.write_all(&reply.body[..half]).await.ok()?;
    if let Some(gate) = &reply.gate {
        gate.acquire().await.ok()?.forget();
    }
    stream.write_all(&reply.body[half..]).await.ok()
}
