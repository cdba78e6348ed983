//! The program that runs the bare commands, inside the node and in its cgroup, so that its own
//! work is counted as any daemon's is.

use std::io::{BufRead as _, Write as _};
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};

use super::orders::{Answer, Order};
use super::pod::{Maker, Running, Steps};

/// Reads orders from standard input until it ends, and answers each.
///
/// # Errors
/// If the plan cannot be read or standard output is closed; what an order meets is answered.
pub(crate) fn run(plan: &Path) -> Result<()> {
    let text = std::fs::read(plan).with_context(|| format!("read {}", plan.display()))?;
    let maker = Maker::new(serde_json::from_slice(&text).context("the plan")?)?;
    // The process of a container is reaped here once `create` has ended.
    berth_sys::thread::set_child_subreaper()?;
    let mut driver = Driver { maker, held: Vec::new() };
    for line in std::io::stdin().lock().lines() {
        let order = serde_json::from_str(&line.context("read an order")?).context("an order")?;
        let answer =
            driver.carry_out(order).unwrap_or_else(|error| Answer::Failed(format!("{error:#}")));
        let mut text = serde_json::to_string(&answer).context("an answer")?;
        text.push('\n');
        std::io::stdout().lock().write_all(text.as_bytes()).context("answer")?;
    }
    Ok(())
}

struct Driver {
    maker: Maker,
    held: Vec<Running>,
}

impl Driver {
    fn carry_out(&mut self, order: Order) -> Result<Answer> {
        let started = Instant::now();
        match order {
            Order::Life { number } => return self.life(number).map(Answer::Steps),
            Order::Probes { count } => {
                let pod = self.held.first().context("no pod is held")?;
                let times = (0..count).map(|_| self.maker.probe(pod));
                return times.collect::<Result<_>>().map(Answer::Samples);
            }
            Order::Fill { numbers, workers } => {
                let begun = spread(numbers, workers, |number| self.maker.begin(number))?;
                self.held.extend(begun.into_iter().map(|(pod, _)| pod));
            }
            Order::Drain { workers } => {
                let held = std::mem::take(&mut self.held);
                spread(held, workers, |pod| self.maker.end(&pod))?;
            }
            Order::Churn { numbers, workers } => {
                spread(numbers, workers, |number| {
                    let (pod, _) = self.maker.begin(number)?;
                    self.maker.end(&pod)
                })?;
            }
        }
        Ok(Answer::Seconds(started.elapsed().as_secs_f64()))
    }

    fn life(&self, number: usize) -> Result<Steps> {
        let (pod, mut steps) = self.maker.begin(number)?;
        steps.push(("ExecSync".to_owned(), self.maker.probe(&pod)?));
        steps.extend(self.maker.end(&pod)?);
        Ok(steps)
    }
}

/// Does something with each of these on so many threads; the first error ends it.
fn spread<T: Send, R: Send>(
    work: Vec<T>,
    workers: usize,
    act: impl Fn(T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let work = Mutex::new(work.into_iter());
    let next = || work.lock().ok().and_then(|mut work| work.next());
    let labour = || {
        let mut done = Vec::new();
        while let Some(item) = next() {
            done.push(act(item)?);
        }
        anyhow::Ok(done)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(labour)).collect();
        let mut all = Vec::new();
        for thread in threads {
            all.extend(thread.join().map_err(|_| anyhow!("a worker panicked"))??);
        }
        Ok(all)
    })
}
