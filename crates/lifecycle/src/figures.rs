//! Counts and times of the steps, for metrics.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What is known of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Step {
    /// How often it ended well.
    pub done: u64,
    /// How often it failed.
    pub failed: u64,
    /// How often it was aborted.
    pub aborted: u64,
    /// Time spent in it, summed.
    pub took: Duration,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Done,
    Failed,
    Aborted,
}

/// Figures of every step, by its name.
#[derive(Debug, Default)]
pub(crate) struct Figures(Mutex<BTreeMap<String, Step>>);

impl Figures {
    pub(crate) fn count(&self, step: &str, end: End, took: Duration) {
        let mut steps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !steps.contains_key(step) {
            steps.insert(step.to_owned(), Step::default());
        }
        let Some(step) = steps.get_mut(step) else { return };
        match end {
            End::Done => step.done += 1,
            End::Failed => step.failed += 1,
            End::Aborted => step.aborted += 1,
        }
        step.took += took;
    }

    pub(crate) fn all(&self) -> BTreeMap<String, Step> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
