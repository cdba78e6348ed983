//! Exec and attach over SPDY: the client opens a stream for each purpose and says which in a header.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::status::Outcome;
use super::{Command, Ends, Form, Wants, carry_out, say};
use crate::Failure;
use crate::ended::{Ended, together};
use crate::http::Site;
use crate::outbox::Parcel;
use crate::pulse::Pace;
use crate::spdy::{Session, Stream, session};

/// Versions of the protocol, by what changed with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V1,
    /// The error stream is not reset, and stdin can be ended.
    V2,
    /// Terminals have sizes.
    V3,
    /// The error stream says it in JSON, with the exit code.
    V4,
}

impl Version {
    fn form(self) -> Form {
        match self {
            Self::V4 => Form::Json,
            Self::V1 | Self::V2 | Self::V3 => Form::Text,
        }
    }
}

/// The streams of a client.
#[derive(Default)]
struct Collected {
    error: Option<Stream>,
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    resize: Option<Stream>,
}

impl Collected {
    fn place(&mut self, kind: &str) -> Option<&mut Option<Stream>> {
        match kind {
            "error" => Some(&mut self.error),
            "stdin" => Some(&mut self.stdin),
            "stdout" => Some(&mut self.stdout),
            "stderr" => Some(&mut self.stderr),
            "resize" => Some(&mut self.resize),
            _ => None,
        }
    }

    fn is_complete(&self, wants: Wants, version: Version) -> bool {
        let resize = wants.tty && version >= Version::V3;
        self.error.is_some()
            && (!wants.stdin || self.stdin.is_some())
            && (!wants.stdout || self.stdout.is_some())
            && (!wants.stderr || self.stderr.is_some())
            && (!resize || self.resize.is_some())
    }

    fn ids(&self) -> Vec<u32> {
        let streams = [&self.stdout, &self.stderr, &self.stdin, &self.resize];
        streams.into_iter().flatten().map(|stream| stream.id).collect()
    }
}

pub(super) async fn serve<T>(io: T, command: Command, version: Version, site: &Site) -> Ended
where
    T: AsyncRead + AsyncWrite + Send + Unpin,
{
    let (session, drive) = session(io, Pace::of(&site.config));
    together(handle(session, command, version, site), drive).await
}

async fn handle(session: Session, command: Command, version: Version, site: &Site) {
    let Session { mut streams, queue } = session;
    let (wants, mut collected) = (command.wants(), Collected::default());
    let collecting = collect(&mut streams, &mut collected, (wants, version));
    let in_time = match tokio::time::timeout(site.config.creation, collecting).await {
        Ok(true) => true,
        // The session is over.
        Ok(false) => return,
        Err(_) => false,
    };
    // What the client opens now is refused.
    drop(streams);
    let ids = collected.ids();
    let Some(Stream { outbox, gone, .. }) = collected.error else {
        tracing::debug!("a client opened no error stream in time");
        return goodbye(&queue, &ids).await;
    };
    if !in_time {
        let why =
            format!("the client did not open all of its streams within {:?}", site.config.creation);
        say(outbox, &Outcome::Failed(Failure(why)), version.form()).await;
        return goodbye(&queue, &ids).await;
    }
    if let (Version::V1, Some(stdin)) = (version, &collected.stdin) {
        // A client of that version waits for this.
        let _over = queue.send(Parcel::End(stdin.id)).await;
    }
    let ends = Ends {
        stdin: collected.stdin.filter(|_| wants.stdin).map(|stream| stream.inbox),
        stdout: collected.stdout.filter(|_| wants.stdout).map(|stream| stream.outbox),
        stderr: collected.stderr.filter(|_| wants.stderr).map(|stream| stream.outbox),
        resize: collected.resize.filter(|_| wants.tty).map(|stream| stream.inbox),
        error: outbox,
        form: version.form(),
    };
    unless(gone, carry_out(&site.backend, command, ends)).await;
    goodbye(&queue, &ids).await;
}

/// Takes the client's streams until all are there that it asked for; false if the session ends before.
async fn collect(
    streams: &mut mpsc::Receiver<Stream>,
    collected: &mut Collected,
    (wants, version): (Wants, Version),
) -> bool {
    while !collected.is_complete(wants, version) {
        let Some(stream) = streams.recv().await else {
            return false;
        };
        let kind = stream.headers.get("streamtype").unwrap_or_default();
        match collected.place(kind) {
            Some(place @ None) => {
                stream.accept().await;
                *place = Some(stream);
            }
            Some(Some(_)) | None => stream.refuse().await,
        }
    }
    true
}

/// Does it, unless the client gives up its error stream: then it does not want to know any more.
async fn unless(gone: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        () = gone.cancelled() => {}
        () = work => {}
    }
}

async fn goodbye(queue: &mpsc::Sender<Parcel>, ids: &[u32]) {
    let ends = ids.iter().map(|id| Parcel::End(*id));
    for parcel in ends.chain([Parcel::Goodbye]) {
        if queue.send(parcel).await.is_err() {
            return;
        }
    }
}
