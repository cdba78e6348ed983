//! How fast a host must be. A byte now and then is no progress: it would hold a pull, and the slot
//! that it occupies, for ever.

use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::Response;

use super::request::{Refusal, within};

/// What must come within one progress time-out (by default 30 s) if there is more to come.
pub(crate) const LEAST: u64 = 32 << 10;

/// Watches over the body of one answer. Only the time spent waiting for the host counts.
pub(crate) struct Pace {
    limit: Duration,
    waited: Duration,
    got: u64,
}

impl Pace {
    /// A pace of [`LEAST`] bytes in each `limit`.
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, waited: Duration::ZERO, got: 0 }
    }

    /// Waits for the next piece; none at the end.
    pub(crate) async fn chunk(
        &mut self,
        response: &mut Response,
    ) -> Result<Option<Bytes>, Refusal> {
        let begin = Instant::now();
        let left = self.limit.saturating_sub(self.waited);
        let chunk = match within(left, response.chunk()).await {
            Err(Refusal::Slow(_)) => return Err(Refusal::Slow(self.limit)),
            chunk => chunk?,
        };
        self.waited += begin.elapsed();
        self.got += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        if self.got >= LEAST {
            (self.waited, self.got) = (Duration::ZERO, 0);
        }
        Ok(chunk)
    }

    /// Reads the rest of an answer that must not be larger than `most` bytes.
    pub(crate) async fn whole(
        mut self,
        mut response: Response,
        most: u64,
    ) -> Result<Vec<u8>, Refusal> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk(&mut response).await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > most {
                return Err(Refusal::Useless(format!("an answer of more than {most} bytes")));
            }
        }
        Ok(bytes)
    }
}
