//! Exec and attach: which stream is which, and what the client is told at the end.

mod channels;
mod resize;
mod spdy;
mod status;

use std::future::pending;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use crate::ended::Ended;
use crate::http::Site;
use crate::inbox::Inbox;
use crate::outbox::Outbox;
use crate::{Attach, Backend, Exec, Streams};

pub(crate) use channels::Protocol;
#[cfg(any(test, fuzzing))]
pub(crate) use resize::sizes;
pub(crate) use spdy::Version;
pub(crate) use status::Form;
use status::Outcome;

/// What is to be done.
#[derive(Clone)]
pub(crate) enum Command {
    Exec(Exec),
    Attach(Attach),
}

/// How the client talks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Spdy(Version),
    Channels(Protocol),
}

/// Which streams a request asks for.
#[derive(Clone, Copy)]
struct Wants {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Command {
    fn wants(&self) -> Wants {
        match *self {
            Self::Exec(Exec { stdin, stdout, stderr, tty, .. })
            | Self::Attach(Attach { stdin, stdout, stderr, tty, .. }) => {
                Wants { stdin, stdout, stderr, tty }
            }
        }
    }
}

/// The ends of a client's streams.
struct Ends {
    stdin: Option<Inbox>,
    stdout: Option<Outbox>,
    stderr: Option<Outbox>,
    resize: Option<Inbox>,
    error: Outbox,
    form: Form,
}

/// Serves one client to its end.
pub(crate) async fn serve<T>(io: T, command: Command, transport: Transport, site: &Site) -> Ended
where
    T: AsyncRead + AsyncWrite + Send + Unpin,
{
    match transport {
        Transport::Spdy(version) => spdy::serve(io, command, version, site).await,
        Transport::Channels(protocol) => channels::serve(io, command, protocol, site).await,
    }
}

/// Does what is asked for, and writes how it went.
async fn carry_out(backend: &Arc<dyn Backend>, command: Command, ends: Ends) {
    let (sizes, resize) = mpsc::channel(1);
    let streams = Streams {
        stdin: ends.stdin.map(|stdin| Box::new(stdin) as _),
        stdout: ends.stdout.map(|stdout| Box::new(stdout) as _),
        stderr: ends.stderr.map(|stderr| Box::new(stderr) as _),
        resize,
    };
    let resizing = async {
        if let Some(resize) = ends.resize {
            resize::pass_on(resize, sizes).await;
        } else {
            drop(sizes);
        }
        pending::<()>().await;
    };
    let outcome = tokio::select! {
        outcome = ask(backend, command, streams) => outcome,
        () = resizing => return,
    };
    say(ends.error, &outcome, ends.form).await;
}

async fn ask(backend: &Arc<dyn Backend>, command: Command, streams: Streams) -> Outcome {
    let outcome = match command {
        Command::Exec(exec) => backend.exec(exec, streams).await.map(Outcome::Exit),
        Command::Attach(attach) => {
            let attached = backend.attach(attach, streams).await;
            attached.map(|()| Outcome::Exit(0))
        }
    };
    outcome.unwrap_or_else(Outcome::Failed)
}

async fn say(mut error: Outbox, outcome: &Outcome, form: Form) {
    let text = outcome.text(form);
    let said = async {
        error.write_all(text.as_bytes()).await?;
        error.shutdown().await
    };
    if let Err(error) = said.await {
        tracing::debug!(%error, "a client was gone before it was told how its session ended");
    }
}
