//! How many pods a second, so many at a time.

use anyhow::{Context as _, Result};

use super::{Bench, turns};
use crate::report::{Figure, What};

const STARTED: What = What::higher("rate/pods", "running pods", "/s");
const REMOVED: What = What::higher("rate/removed", "stopped and removed pods", "/s");
const CHURN: What = What::higher("rate/churn", "churn (start, stop and remove)", "/s");
const CPU: What = What::lower("rate/cpu", "CPU of a pod's whole life, at that rate", "ms");

/// Pods and seconds of several turns.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    pods: usize,
    started: f64,
    removed: f64,
    churn: f64,
    cpu: f64,
}

impl Bench {
    /// Measures starting, removing, and both together.
    ///
    /// # Errors
    /// If a call fails, or something of the network is left.
    pub(crate) async fn rates(&mut self) -> Result<()> {
        let workers = self.amount.workers;
        let mut sums = vec![Sum::default(); self.subjects.len()];
        // A turn must be long against the time in which the last few run alone.
        let turns = turns(self.amount.pods, self.amount.turns.min(3));
        for (turn, count) in turns.into_iter().enumerate() {
            for (subject, sum) in self.subjects.iter_mut().zip(&mut sums) {
                let name = subject.name.clone();
                eprintln!("rates: turn {}, {count} pods of {name}, {workers} at a time", turn + 1);
                sum.pods += count;
                sum.started += subject.fill(count, workers).await.with_context(|| name.clone())?;
                sum.removed += subject.drain(workers).await.with_context(|| name.clone())?;
                let before = subject.site().map(|site| site.cpu_ms()).transpose()?;
                sum.churn += subject.churn(count, workers).await.context(name)?;
                let after = subject.site().map(|site| site.cpu_ms()).transpose()?;
                sum.cpu += after.unwrap_or(0.0) - before.unwrap_or(0.0);
            }
        }
        for (subject, sum) in self.subjects.iter().zip(sums) {
            let rate = |seconds: f64| Figure::one(sum.pods as f64 / seconds, sum.pods);
            self.report.put(STARTED, &subject.name, rate(sum.started));
            self.report.put(REMOVED, &subject.name, rate(sum.removed));
            self.report.put(CHURN, &subject.name, rate(sum.churn));
            if subject.site().is_some() {
                let each = Figure::one(sum.cpu / sum.pods as f64, sum.pods);
                self.report.put(CPU, &subject.name, each);
            }
        }
        Ok(())
    }
}
