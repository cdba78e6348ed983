//! How long a session has been quiet.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, Interval, interval_at};

use crate::Config;

/// How long a client may take to close the connection after the end of its session.
pub(crate) const LINGER: Duration = Duration::from_secs(10);

/// How long a session may be quiet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    idle: Duration,
    ping: Duration,
}

impl Pace {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            idle: config.idle,
            // An interval of nothing is none.
            ping: config.ping.max(Duration::from_millis(1)),
        }
    }

    /// How long without a sign of life.
    pub(crate) fn idle(self) -> Duration {
        self.idle
    }

    /// When to ask the client for one.
    pub(crate) fn pings(self) -> Interval {
        interval_at(Instant::now() + self.ping, self.ping)
    }
}

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
            let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match after.checked_sub(last.elapsed()) {
                None | Some(Duration::ZERO) => return,
                Some(rest) => tokio::time::sleep(rest).await,
            }
        }
    }
}
