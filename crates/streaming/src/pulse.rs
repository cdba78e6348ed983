//! How long a session has been quiet.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How often a quiet client is asked for a sign of life: the kernel then notices one that is gone, also while
/// nothing is read from it.
pub(crate) const PING: Duration = Duration::from_secs(30);

/// How long a client may take to close the connection after the end of its session.
pub(crate) const LINGER: Duration = Duration::from_secs(10);

/// The time of the last sign of life.
pub(crate) struct Pulse(Mutex<Instant>);

impl Pulse {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    /// Notes a sign of life.
    pub(crate) fn beat(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Waits until there was none for so long.
    pub(crate) async fn stopped(&self, after: Duration) {
        loop {
            let end = *self.0.lock().unwrap_or_else(PoisonError::into_inner) + after;
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}
