//! The HTTP side: which request belongs to which token.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::token::{self, Tokens};
use crate::{Backend, Config};

/// How long a client may take over the head of its request.
const HEAD: Duration = Duration::from_secs(30);
/// The largest head.
const HEAD_SIZE: usize = 64 << 10;

/// What every connection of a server needs.
#[expect(dead_code, reason = "the sessions come next")]
pub(crate) struct Site {
    pub(crate) config: Config,
    pub(crate) tokens: Tokens,
    pub(crate) backend: Arc<dyn Backend>,
}

/// Serves one connection to its end.
pub(crate) async fn serve<T>(stream: T, site: Arc<Site>)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(|request| {
        let answer = answer(&request, &site);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_SIZE)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a client's request could not be read");
    }
}

fn answer(request: &Request<Incoming>, site: &Site) -> Response<String> {
    let Some(_wanted) = claim(request.uri().path(), &site.tokens) else {
        return plain(
            StatusCode::NOT_FOUND,
            "this URL is unknown, was used already, or has expired: ask CRI for a new one",
        );
    };
    plain(StatusCode::NOT_IMPLEMENTED, "this version serves no streams yet")
}

/// What the path's token was given for, if it was given for such a path.
fn claim(path: &str, tokens: &Tokens) -> Option<token::Request> {
    let (place, token) = path.strip_prefix('/')?.split_once('/')?;
    let wanted = tokens.take(token, Instant::now())?;
    let right = match wanted {
        token::Request::Exec(_) => "exec",
        token::Request::Attach(_) => "attach",
        token::Request::PortForward(_) => "portforward",
    };
    (place == right).then_some(wanted)
}

fn plain(status: StatusCode, text: &str) -> Response<String> {
    let mut response = Response::new(format!("{text}\n"));
    *response.status_mut() = status;
    response
}
