//! The HTTP side: which request belongs to which token.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::ended::Ended;
use crate::negotiate::{self, plain};
use crate::remote_command::{self, Command};
use crate::token::{self, Tokens};
use crate::{Backend, Config, PortForward, port_forward};

/// How long a client may take over the head of its request.
const HEAD: Duration = Duration::from_secs(30);
/// The largest head.
const HEAD_SIZE: usize = 64 << 10;

/// What every connection of a server needs.
pub(crate) struct Site {
    pub(crate) config: Config,
    pub(crate) tokens: Tokens,
    pub(crate) backend: Arc<dyn Backend>,
}

/// What comes after the upgrade.
struct Plan {
    upgrade: OnUpgrade,
    session: Session,
}

enum Session {
    Command(Command, remote_command::Transport),
    Forward(PortForward, port_forward::Transport),
}

/// Serves one connection to its end.
pub(crate) async fn serve<T>(stream: T, site: Arc<Site>)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let plan = Mutex::new(None);
    let service = service_fn(|mut request| {
        let answer = answer(&mut request, &site).map(|(answer, session)| {
            let upgrade = hyper::upgrade::on(&mut request);
            *plan.lock().unwrap_or_else(PoisonError::into_inner) = Some(Plan { upgrade, session });
            answer
        });
        async move { Ok::<_, Infallible>(answer.unwrap_or_else(|refusal| *refusal)) }
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
    let Some(plan) = plan.into_inner().unwrap_or_else(PoisonError::into_inner) else {
        return;
    };
    let ended = match plan.upgrade.await {
        Ok(io) => run(TokioIo::new(io), plan.session, &site).await,
        Err(error) => {
            tracing::debug!(%error, "a client was gone before its session began");
            return;
        }
    };
    tracing::debug!(%ended, "a streaming session is over");
}

async fn run(io: TokioIo<Upgraded>, session: Session, site: &Site) -> Ended {
    match session {
        Session::Command(command, transport) => {
            remote_command::serve(io, command, transport, site).await
        }
        Session::Forward(wanted, transport) => {
            port_forward::serve(io, wanted, transport, site).await
        }
    }
}

type Refusal = Box<Response<String>>;

/// The answer to a request, and the session that it begins.
fn answer(
    request: &mut Request<Incoming>,
    site: &Site,
) -> Result<(Response<String>, Session), Refusal> {
    let unknown = || {
        let text = "this URL is unknown, was used already, or has expired: ask CRI for a new one";
        Box::new(plain(StatusCode::NOT_FOUND, text))
    };
    let command = match claim(request.uri().path(), &site.tokens).ok_or_else(unknown)? {
        token::Request::Exec(exec) => Command::Exec(exec),
        token::Request::Attach(attach) => Command::Attach(attach),
        token::Request::PortForward(wanted) => {
            let agreed = negotiate::forward(request.headers())?;
            port_forward::check(&wanted, agreed.transport)
                .map_err(|why| Box::new(plain(StatusCode::BAD_REQUEST, why)))?;
            let session = Session::Forward(wanted, agreed.transport);
            return Ok((agreed.response, session));
        }
    };
    let agreed = negotiate::command(request.headers())?;
    Ok((agreed.response, Session::Command(command, agreed.transport)))
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
