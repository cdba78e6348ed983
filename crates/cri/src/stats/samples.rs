//! Earlier readings of CPU time: usage per second needs two.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

/// Two readings closer together than this say little: the rate of before is answered again.
const SHORTEST_WINDOW_NS: i64 = 500_000_000;

/// The last readings, by id.
#[derive(Default)]
pub(crate) struct Samples(Mutex<HashMap<String, Sample>>);

#[derive(Clone, Copy)]
struct Sample {
    at: i64,
    usage: u64,
    rate: Option<u64>,
}

impl Samples {
    /// Billionths of a processor in use: since the reading before, or, the first time, since the
    /// start.
    pub(crate) fn rate(&self, id: &str, at: i64, usage: u64, started: Option<i64>) -> Option<u64> {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = samples.get(id).copied();
        let (since, from) = match before {
            // A counter that went back belongs to a cgroup made anew.
            Some(before) if usage >= before.usage => {
                if at - before.at < SHORTEST_WINDOW_NS {
                    return before.rate;
                }
                (Some(before.at), before.usage)
            }
            _ => (started, 0),
        };
        let rate = since.and_then(|since| per_second(usage - from, at - since));
        samples.insert(id.to_owned(), Sample { at, usage, rate });
        rate
    }

    /// Forgets all but these.
    pub(crate) fn retain(&self, live: &HashSet<&str>) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        samples.retain(|id, _| live.contains(id.as_str()));
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

fn per_second(amount: u64, window: i64) -> Option<u64> {
    let window = u128::try_from(window).ok().filter(|window| *window > 0)?;
    u64::try_from(u128::from(amount) * 1_000_000_000 / window).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn the_rate_is_that_of_the_time_since_the_last_reading() {
        let samples = Samples::default();
        assert_eq!(
            samples.rate("a", 10 * SECOND, 1_000_000_000, Some(8 * SECOND)),
            Some(500_000_000)
        );
        assert_eq!(samples.rate("a", 12 * SECOND, 2_000_000_000, None), Some(500_000_000));
        assert_eq!(samples.rate("a", 13 * SECOND, 4_000_000_000, None), Some(2_000_000_000));
        let soon = 13 * SECOND + 1_000_000;
        assert_eq!(samples.rate("a", soon, 4_500_000_000, None), Some(2_000_000_000));
        // The reading that came too soon was not kept: this window starts at 13 s.
        assert_eq!(samples.rate("a", 14 * SECOND, 5_000_000_000, None), Some(1_000_000_000));
    }

    #[test]
    fn a_counter_that_starts_again_gives_no_nonsense() {
        let samples = Samples::default();
        samples.rate("a", SECOND, 5_000_000_000, None);
        assert_eq!(samples.rate("a", 2 * SECOND, 1_000, None), None);
        assert_eq!(samples.rate("a", 3 * SECOND, 2_000, None), Some(1_000));
        assert_eq!(samples.rate("b", 0, 5, Some(0)), None);
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let samples = Samples::default();
        samples.rate("a", SECOND, 1, None);
        samples.rate("b", SECOND, 1, None);
        samples.retain(&HashSet::from(["b"]));
        assert_eq!(samples.len(), 1);
    }
}
