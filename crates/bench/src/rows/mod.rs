//! What is measured, part by part.

mod crowd;
mod events;
mod handlers;
pub(crate) mod held;
mod lists;
mod logs;
mod pull;
pub(crate) mod rates;
pub(crate) mod rpc;
mod sessions;

use std::time::Duration;

use anyhow::Result;

use crate::report::Report;
use crate::subject::Subject;

/// The parts that are measured while pods are held.
const HELD: [&str; 5] = ["memory", "lists", "idle", "restart", "crowd"];

/// How much of everything is measured.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Amount {
    /// How often each RPC.
    pub(crate) calls: usize,
    /// How many pods for each rate.
    pub(crate) pods: usize,
    /// How many at a time.
    pub(crate) workers: usize,
    /// In how many turns: the machine's drift meets everybody alike.
    pub(crate) turns: usize,
    /// The most pods that are held.
    pub(crate) held: usize,
    /// How long a subject is left alone before its memory is looked at.
    pub(crate) settle: Duration,
    /// How often the daemon is killed.
    pub(crate) restarts: usize,
    /// Seconds of the kubelet's polling.
    pub(crate) polling: u64,
    /// How often the large image is pulled.
    pub(crate) pulls: usize,
    /// How long the log is.
    pub(crate) log_megabytes: usize,
}

/// The subjects and what was found out about them.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) subjects: Vec<Subject>,
    pub(crate) report: Report,
    pub(crate) amount: Amount,
    pub(crate) parts: Vec<String>,
}

impl Bench {
    /// Whether a part was asked for.
    pub(crate) fn wants(&self, part: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|wanted| wanted == part)
    }
}

impl Bench {
    /// Ends all subjects.
    ///
    /// # Errors
    /// If one leaves something behind.
    pub(crate) fn close(&mut self) -> Result<()> {
        std::mem::take(&mut self.subjects).into_iter().try_for_each(Subject::close)
    }

    /// Measures every part that was asked for, but the handlers.
    ///
    /// # Errors
    /// If a call fails, or something was not done.
    pub(crate) async fn all(&mut self) -> Result<()> {
        if self.wants("rpc") {
            self.rpc().await?;
        }
        if self.wants("sessions") {
            self.sessions().await?;
        }
        if self.wants("events") {
            self.events().await?;
        }
        if self.wants("rates") {
            self.rates().await?;
        }
        if HELD.iter().any(|part| self.wants(part)) {
            self.held().await?;
        }
        if self.wants("logs") {
            self.logs().await?;
        }
        if self.wants("pull") {
            self.pull().await?;
        }
        Ok(())
    }
}

/// This many things in so many turns, as even as can be.
pub(crate) fn turns(count: usize, turns: usize) -> Vec<usize> {
    let turns = turns.clamp(1, count.max(1));
    (0..turns).map(|turn| count * (turn + 1) / turns - count * turn / turns).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_add_up() {
        assert_eq!(turns(50, 5), [10; 5]);
        assert_eq!(turns(7, 3), [2, 2, 3]);
        assert_eq!(turns(2, 5), [1, 1]);
        assert_eq!(turns(0, 5), [0]);
    }
}
