//! The bytes of a layer, from whichever hosts have them, without a gap.
//!
//! A connection that breaks is taken up where it ended (`Range`), at the same host or another: the
//! content is the same everywhere, and the receiver verifies its digest.

use bytes::Bytes;
use reqwest::{Response, StatusCode};
use tokio::sync::mpsc::Sender;

use super::pace::{LEAST, Pace};
use super::request::{Ask, Refusal};
use super::session::{Session, Station};
use crate::digest::Digest;
use crate::error::{Error, Result};

/// What is handed to whoever unpacks. A stream that ends without [`Piece::End`] was cut off.
pub(crate) enum Piece {
    /// The next bytes.
    Data(Bytes),
    /// There are no more.
    End,
}

/// How the feeding of a layer ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fed {
    /// All of it was handed over.
    Whole,
    /// The receiver went away; it knows why.
    Unwanted,
}

/// Which hosts a blob is fetched from.
#[derive(Default)]
pub(crate) struct Sources {
    /// Those whose content was wrong before.
    pub(crate) avoid: Vec<String>,
    /// Those that gave any of it this time, in order.
    pub(crate) served: Vec<String>,
}

/// Fetches a blob and hands it over piece by piece.
pub(crate) async fn feed(
    session: &Session,
    (digest, size): (&Digest, u64),
    sources: &mut Sources,
    to: &Sender<Piece>,
) -> Result<Fed> {
    sources.served.clear();
    let feeding = async {
        let mut feeding = Feeding { session, digest, size, offset: 0, to };
        feeding.run(sources).await
    };
    // A receiver that is gone ends even a pause between two tries.
    tokio::select! {
        fed = feeding => fed,
        () = to.closed() => Ok(Fed::Unwanted),
    }
}

struct Feeding<'a> {
    session: &'a Session,
    digest: &'a Digest,
    size: u64,
    offset: u64,
    to: &'a Sender<Piece>,
}

impl Feeding<'_> {
    async fn run(&mut self, sources: &mut Sources) -> Result<Fed> {
        let mut refusals = Vec::new();
        let mut stations = self.session.in_order(|host| host.pull);
        stations.retain(|station| !sources.avoid.contains(&station.name()));
        let last = stations.len().saturating_sub(1);
        for (at, station) in stations.into_iter().enumerate() {
            let mut attempt = 1;
            loop {
                let before = self.offset;
                let refusal = match self.from(station, &mut sources.served).await {
                    Ok(fed) => return Ok(fed),
                    Err(refusal) => refusal,
                };
                // Progress makes up for earlier failures, a byte now and then does not.
                attempt = if self.offset - before >= LEAST { 1 } else { attempt + 1 };
                let again = match at == last || self.offset > before {
                    true => refusal.is_passing() && attempt <= self.session.settings.attempts,
                    false => false,
                };
                tracing::debug!(
                    host = station.name(), blob = %self.digest, offset = self.offset, %refusal, again,
                    "layer interrupted"
                );
                if !again {
                    if refusal.is_passing() {
                        station.fail();
                    }
                    refusals.push((station.name(), refusal));
                    break;
                }
                self.session.pause(attempt, &refusal).await;
            }
        }
        Err(match self.session.failure(refusals) {
            Error::NotInRegistry { reference, tried } => Error::NotInRegistry {
                reference: format!("{reference}, blob {}", self.digest),
                tried,
            },
            error => error,
        })
    }

    async fn from(&mut self, station: &Station, served: &mut Vec<String>) -> Result<Fed, Refusal> {
        let path = self.session.blob_path(self.digest);
        let ask = Ask { offset: self.offset, ..Ask::get(path) };
        let mut response = self.session.send(station, &ask).await?;
        let mut skip = self.skip(&response)?;
        let mut pace = Pace::new(self.session.settings.progress_timeout);
        // All that is wanted is there when the size is: the connection's end may break or never come.
        while self.offset < self.size
            && let Some(mut chunk) = pace.chunk(&mut response).await?
        {
            if skip > 0 {
                let count = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
                skip -= count as u64;
                chunk = chunk.split_off(count);
            }
            if chunk.is_empty() {
                continue;
            }
            self.offset += chunk.len() as u64;
            if !served.contains(&station.name()) {
                served.push(station.name());
            }
            // The receiver may take its time: that is our disk, not the host's progress.
            if self.to.send(Piece::Data(chunk)).await.is_err() {
                return Ok(Fed::Unwanted);
            }
        }
        if self.offset < self.size {
            let text =
                format!("{}: ended after {} of {} bytes", station.name(), self.offset, self.size);
            return Err(Refusal::Temporary(text, None));
        }
        if served.is_empty() {
            served.push(station.name());
        }
        match self.to.send(Piece::End).await {
            Ok(()) => Ok(Fed::Whole),
            Err(_) => Ok(Fed::Unwanted),
        }
    }

    /// How many bytes of an answer we have already: none if the host understood the range.
    fn skip(&self, response: &Response) -> Result<u64, Refusal> {
        if response.status() != StatusCode::PARTIAL_CONTENT {
            // What has another size is something else: a page that asks to log in, for example.
            let length = response.content_length().unwrap_or(self.size);
            return match length == self.size {
                true => Ok(self.offset),
                false => Err(Refusal::Useless(format!(
                    "blob {}: {length} bytes offered, {} expected",
                    self.digest, self.size
                ))),
            };
        }
        let range = response.headers().get(reqwest::header::CONTENT_RANGE);
        let start = range
            .and_then(|range| range.to_str().ok()?.strip_prefix("bytes ")?.split('-').next())
            .and_then(|start| start.trim().parse::<u64>().ok());
        match start {
            Some(start) if start <= self.offset => Ok(self.offset - start),
            _ => Err(Refusal::Useless(format!("blob {}: not the range asked for", self.digest))),
        }
    }
}
