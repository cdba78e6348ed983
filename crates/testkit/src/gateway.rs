//! A front for the registry, inside the test process: it asks for bearer tokens, and misbehaves
//! on request. What it lets through is answered by the real registry behind it.

use std::io::Write as _;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, anyhow};
use rustix::event::{PollFd, PollFlags, poll};

use crate::http::{Request, Response};
use crate::place::Place;
use crate::push::basic;
use crate::registry::{PASSWORD, USER};

/// The token that the gateway's token server hands out.
const TOKEN: &str = "a-token-of-the-testkit";

/// How a gateway behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// As the registry does.
    Plain,
    /// Wants a bearer token, which its token server gives to everybody.
    Token,
    /// Wants a bearer token, which its token server gives for the testkit's user and password.
    TokenForUser,
    /// Answers blobs with one byte changed.
    Corrupt,
    /// Ends every blob half way.
    Truncate,
    /// Sends half of a blob and then nothing, until the client gives up.
    Stall,
    /// Answers 503 to everything.
    Unavailable,
    /// Answers 503 to the first blob requests, then serves.
    Flaky,
}

/// A running gateway; it ends on drop.
#[derive(Debug)]
pub struct Gateway {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Closed to end the accepting thread.
    end: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    manner: Manner,
    backend: SocketAddr,
    requests: Mutex<Vec<String>>,
    failures: AtomicUsize,
}

impl Gateway {
    /// Starts a gateway on a free port of `place`'s loopback, before the registry `backend`.
    ///
    /// # Errors
    /// If it cannot listen there.
    pub fn start(place: &Place, backend: SocketAddr, manner: Manner) -> Result<Self> {
        let listener = place
            .visit(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen as a gateway"))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            manner,
            backend,
            requests: Mutex::default(),
            failures: AtomicUsize::new(2),
        });
        let own = Arc::clone(&shared);
        let (alive, end) = UnixStream::pair().context("a way to end the gateway")?;
        // A socket belongs to the network that it was made in; only connections to the registry
        // need their threads to be inside, and threads inherit that.
        let thread = place.stay(move || {
            while let Some(client) = next(&listener, &end) {
                let own = Arc::clone(&own);
                std::thread::spawn(move || own.serve(&client));
            }
        })?;
        Ok(Self { address, shared, end: Some(alive), thread: Some(thread) })
    }

    /// Its address inside the node's network.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every request so far, as `METHOD PATH`, in the order of arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The next client; `None` once the other end of `end` is closed.
fn next(listener: &TcpListener, end: &UnixStream) -> Option<TcpStream> {
    loop {
        let mut ready = [PollFd::new(listener, PollFlags::IN), PollFd::new(end, PollFlags::IN)];
        poll(&mut ready, None).ok()?;
        if !ready[1].revents().is_empty() {
            return None;
        }
        // A client that was there and left again is no client.
        if let Ok((client, _)) = listener.accept() {
            return Some(client);
        }
    }
}

impl Shared {
    fn serve(&self, client: &TcpStream) {
        let Ok(Some(request)) = Request::read(client) else { return };
        let line = format!("{} {}", request.method, request.path);
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        let answered = self.answer(client, &request);
        let _ = client.shutdown(Shutdown::Both);
        if let Err(error) = answered {
            // Said, not hidden: clients that go away are what some tests are about.
            eprintln!("testkit: gateway: {} {}: {error:#}", request.method, request.path);
        }
    }

    fn answer(&self, client: &TcpStream, request: &Request) -> Result<()> {
        if request.path.starts_with("/token") {
            return send(client, &self.token(request));
        }
        let blob = request.path.contains("/blobs/");
        let fails = match self.manner {
            Manner::Unavailable => true,
            Manner::Flaky if blob => {
                let less = |left: usize| left.checked_sub(1);
                self.failures.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).is_ok()
            }
            _ => false,
        };
        if fails {
            return send(client, &Response::new(503, "not today"));
        }
        let wants_token = matches!(self.manner, Manner::Token | Manner::TokenForUser);
        if wants_token && request.get("authorization") != Some(&format!("Bearer {TOKEN}")) {
            return send(client, &challenge(request));
        }
        let mut onward = request.clone();
        if wants_token {
            onward.headers.retain(|(name, _)| name != "authorization");
        }
        let response = onward.send(self.backend)?;
        if blob && request.method == "GET" {
            return self.blob(client, response);
        }
        send(client, &response)
    }

    fn blob(&self, mut client: &TcpStream, mut response: Response) -> Result<()> {
        let half = response.body.len() / 2;
        match self.manner {
            Manner::Corrupt => {
                if let Some(byte) = response.body.get_mut(half) {
                    *byte ^= 1;
                }
            }
            Manner::Truncate | Manner::Stall => {
                client.write_all(response.head(response.body.len()).as_bytes())?;
                client.write_all(&response.body[..half])?;
                if self.manner == Manner::Stall {
                    // Returns when the client closes the connection.
                    let _ = std::io::copy(&mut client, &mut std::io::sink());
                }
                return Ok(());
            }
            _ => {}
        }
        send(client, &response)
    }

    fn token(&self, request: &Request) -> Response {
        let known = request.get("authorization") == Some(&basic(USER, PASSWORD));
        if self.manner == Manner::TokenForUser && !known {
            return Response::new(401, r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#);
        }
        if !request.path.contains("scope=repository") || !request.path.contains("service=testkit") {
            return Response::new(400, "a token is asked for with a service and a scope");
        }
        let text = format!(r#"{{"token":"{TOKEN}","expires_in":60}}"#);
        Response::new(200, &text).header("content-type", "application/json")
    }
}

fn challenge(request: &Request) -> Response {
    let host = request.get("host").unwrap_or_default();
    let repository = request.path.trim_start_matches("/v2/");
    let end = ["/manifests/", "/blobs/", "/tags/"].iter().find_map(|part| repository.find(part));
    let scope = match end {
        Some(end) => format!(r#",scope="repository:{}:pull""#, &repository[..end]),
        None => String::new(),
    };
    let value = format!(r#"Bearer realm="http://{host}/token",service="testkit"{scope}"#);
    Response::new(401, r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#).header("www-authenticate", &value)
}

fn send(mut client: &TcpStream, response: &Response) -> Result<()> {
    client
        .write_all(response.head(response.length()).as_bytes())
        .and_then(|()| client.write_all(&response.body))
        .map_err(|error| anyhow!("answer the client: {error}"))
}
