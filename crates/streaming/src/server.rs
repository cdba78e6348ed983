//! The listener, and the URLs that lead to it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::http::{self, Site};
use crate::token::{Request, Tokens};
use crate::{Attach, Backend, Config, Error, Exec, PortForward, Result, tls};

/// How many connections are served at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 2000;
/// How long a client may take over its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// A streaming server. It runs until it is dropped, which ends every session.
pub struct Server {
    address: SocketAddr,
    scheme: &'static str,
    site: Arc<Site>,
    accepting: AbortHandle,
}

impl Server {
    /// Listens, and serves the clients of what [`Server::exec`] and its like are asked for.
    ///
    /// Must be called in a tokio runtime.
    pub async fn bind(config: Config, backend: Arc<dyn Backend>) -> Result<Self> {
        let acceptor = config.tls.as_ref().map(tls::acceptor).transpose()?;
        let listening = |source| Error::Listen { address: config.address, source };
        let listener = TcpListener::bind(config.address).await.map_err(listening)?;
        let address = listener.local_addr().map_err(listening)?;
        let scheme = if acceptor.is_some() { "https" } else { "http" };
        let site = Arc::new(Site { tokens: Tokens::new(config.token_lifetime), backend, config });
        let accepting = tokio::spawn(accept(listener, acceptor, site.clone())).abort_handle();
        Ok(Self { address, scheme, site, accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL at which one client can run the command.
    pub fn exec(&self, request: Exec) -> Result<String> {
        if request.command.is_empty() {
            return Err(Error::Request("an exec has no command: give one"));
        }
        check(&request.container, request.tty, (request.stdin, request.stdout, request.stderr))?;
        self.url("exec", Request::Exec(request))
    }

    /// The URL at which one client can attach.
    pub fn attach(&self, request: Attach) -> Result<String> {
        check(&request.container, request.tty, (request.stdin, request.stdout, request.stderr))?;
        self.url("attach", Request::Attach(request))
    }

    /// The URL at which one client can forward any number of connections.
    pub fn port_forward(&self, request: PortForward) -> Result<String> {
        if request.pod.is_empty() {
            return Err(Error::Request("pod_sandbox_id is missing: say which pod is meant"));
        }
        self.url("portforward", Request::PortForward(request))
    }

    fn url(&self, place: &str, request: Request) -> Result<String> {
        let token = self.site.tokens.give(request, Instant::now())?;
        Ok(format!("{}://{}/{place}/{token}", self.scheme, self.address))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// CRI's own rules for the three streams (stdin, stdout, stderr).
fn check(container: &str, tty: bool, streams: (bool, bool, bool)) -> Result<()> {
    if container.is_empty() {
        return Err(Error::Request("container_id is missing: say which container is meant"));
    }
    match (tty, streams) {
        (_, (false, false, false)) => {
            Err(Error::Request("none of stdin, stdout and stderr is asked for: ask for one"))
        }
        (true, (_, _, true)) => {
            Err(Error::Request("a tty has no stderr of its own: ask for stdout"))
        }
        _ => Ok(()),
    }
}

/// Takes connections until it is aborted; the sessions are aborted with it.
async fn accept(listener: TcpListener, acceptor: Option<TlsAcceptor>, site: Arc<Site>) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    let mut sessions = JoinSet::new();
    loop {
        while sessions.try_join_next().is_some() {}
        let Ok(permit) = free.clone().acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the streaming server cannot take a connection");
                // Without descriptors, the next try fails at once too.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, site) = (acceptor.clone(), site.clone());
        sessions.spawn(async move {
            connection(stream, acceptor, site).await;
            drop(permit);
        });
    }
}

async fn connection(stream: TcpStream, acceptor: Option<TlsAcceptor>, site: Arc<Site>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a client was gone before it was served");
        return;
    }
    let Some(acceptor) = acceptor else {
        return serve(stream, site).await;
    };
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => serve(stream, site).await,
        Ok(Err(error)) => tracing::debug!(%error, "a client's TLS handshake failed"),
        Err(_) => tracing::debug!("a client did not end its TLS handshake"),
    }
}

async fn serve<T: AsyncRead + AsyncWrite + Send + Unpin + 'static>(stream: T, site: Arc<Site>) {
    http::serve(stream, site).await;
}
