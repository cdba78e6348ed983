//! After a panic: the pod is brought back to what was saved last, as a new daemon would do it.
//!
//! Whoever waits is told; what runs is aborted and waited for, so that nothing of before takes
//! effect later; then the loop begins anew. A panic that comes back is met with longer pauses.

use std::any::Any;
use std::time::Duration;

use berth_pod::Kind;
use berth_pod::machine::Machine;
use berth_pod::record::Failure;
use tokio::time::Instant;

use super::{Message, PodTask};

/// The first pause, and the longest.
const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(30);

/// A loop that went on for so long after a panic has left it behind.
const LEFT_BEHIND: Duration = Duration::from_secs(60);

/// The panics in a row.
#[derive(Debug, Default)]
pub(super) struct Panics {
    last: Option<(Instant, Duration)>,
}

impl Panics {
    /// How long to pause after one more.
    pub(super) fn pause(&mut self, now: Instant) -> Duration {
        let pause = match self.last {
            Some((at, pause)) if now < at + pause + LEFT_BEHIND => (pause * 2).min(LONGEST),
            _ => FIRST,
        };
        self.last = Some((now, pause));
        pause
    }
}

/// What a panic said.
pub(super) fn text(why: &(dyn Any + Send)) -> String {
    let literal = why.downcast_ref::<&str>().map(|text| (*text).to_owned());
    literal.or_else(|| why.downcast_ref::<String>().cloned()).unwrap_or_default()
}

impl PodTask {
    /// Takes the pod back to its last saved record; false when there is none any more: nothing was
    /// acquired for it, or nothing is held.
    pub(super) async fn recover(&mut self, why: &str, pause: Duration) -> bool {
        let id = self.machine.record().id.clone();
        let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        tracing::error!(pod = %id, why, pause_ms, "a bug: the pod's task panicked; it begins anew from what was saved");
        let text = format!(
            "a bug: the task of pod {id} panicked: {why}: what was asked may be done or not: try again"
        );
        let bug = Failure::new(Kind::Broken, text);
        for (_, caller) in self.callers.drain() {
            let _ = caller.send(Err(bug.clone()));
        }
        for job in self.jobs.values() {
            job.cancel.cancel();
        }
        let resume = Instant::now() + pause;
        while self.under_way() || Instant::now() < resume {
            let message = if self.under_way() {
                self.queue.recv().await
            } else {
                let waited = tokio::time::timeout_at(resume, self.queue.recv()).await;
                let Ok(message) = waited else { break };
                message
            };
            let Some(message) = message else { break };
            self.sit_out(message, &bug);
        }
        if let (Some(saved), false) = (&self.on_disk.saved, self.gone) {
            let (record, now) = ((**saved).clone(), self.shared.now());
            self.machine = Machine::restore(record, &self.shared.boot_id, now);
            self.wake_at = None;
            return true;
        }
        if !self.gone {
            self.leave();
        }
        self.queue.close();
        while let Ok(message) = self.queue.try_recv() {
            self.sit_out(message, &bug);
        }
        false
    }

    fn under_way(&self) -> bool {
        !self.gone
            && (!self.jobs.is_empty() || self.on_disk.saving.is_some() || self.on_disk.forgetting)
    }

    /// Takes a message while there is no loop that could.
    fn sit_out(&mut self, message: Message, bug: &Failure) {
        if let Message::Request(asked) = message {
            let _ = asked.reply.send(Err(bug.clone()));
        } else {
            // What it means for the driver is noted; the loop learns it anew.
            self.note(message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_in_a_row_are_met_with_longer_pauses_and_a_later_one_with_the_first() {
        let mut panics = Panics::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..10 {
            let pause = panics.pause(now);
            pauses.push(pause);
            now += pause;
        }
        assert!(pauses.is_sorted() && pauses[1] > pauses[0], "{pauses:?}");
        assert_eq!((pauses[0], pauses[9]), (FIRST, LONGEST));
        assert_eq!(panics.pause(now + LEFT_BEHIND), FIRST);
    }
}
