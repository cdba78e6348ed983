//! What could not be released though its pod has been let go: tried again, less and less often,
//! until it works. The operator sees it; nobody waits for it.

use std::collections::{BTreeMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use berth_pod::holding::{ContainerHolding, Holding as _};
use berth_pod::record::Leftover;
use berth_pod::{Kind, SandboxId};
use berth_records::LeftoverId;
use futures_util::FutureExt as _;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::effect::{self, Context, Trouble};
use crate::shared::Shared;
use crate::view::LeftoverReport;

/// How many pods' leftovers are tried at a time: one that hangs must not hold up all the others.
const ABREAST: usize = 8;

/// The first pause, and the longest.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);

#[derive(Clone)]
struct Item {
    number: u64,
    row: Option<LeftoverId>,
    leftover: Leftover,
    tries: u32,
}

/// The leftovers of the node.
#[derive(Default)]
pub(crate) struct Leftovers {
    items: Mutex<Vec<Item>>,
    numbers: AtomicU64,
    added: Notify,
}

impl Leftovers {
    fn items(&self) -> std::sync::MutexGuard<'_, Vec<Item>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes leftovers in that were just saved, with their rows where these are known.
    pub(crate) fn add(&self, saved: Vec<(Option<LeftoverId>, Leftover)>) {
        for (row, leftover) in saved {
            let number = self.numbers.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(pod = %leftover.pod, holding = leftover.holding, error = leftover.error, "left over");
            self.items().push(Item { number, row, leftover, tries: 0 });
            self.added.notify_one();
        }
    }

    /// A task that is left over needs its bundle.
    fn needed(&self, item: &Item) -> bool {
        let task = |other: &Item| {
            other.leftover.holding == ContainerHolding::Task.name()
                && other.leftover.container == item.leftover.container
        };
        item.leftover.holding == ContainerHolding::Bundle.name() && self.items().iter().any(task)
    }

    /// All of them, for the operator.
    /// What the pods that they are left over from were begun with.
    pub(crate) fn settings(&self) -> Vec<String> {
        self.items().iter().map(|item| item.leftover.record.settings.clone()).collect()
    }

    pub(crate) fn report(&self) -> Vec<LeftoverReport> {
        let items = self.items();
        items
            .iter()
            .map(|item| LeftoverReport {
                pod: item.leftover.pod.clone(),
                container: item.leftover.container.clone(),
                holding: item.leftover.holding.clone(),
                error: item.leftover.error.clone(),
                since: item.leftover.since,
                tries: item.tries,
            })
            .collect()
    }
}

/// Tries them again for as long as the daemon runs: those of one pod in turn, some pods at a time.
pub(crate) async fn run(shared: Arc<Shared>) {
    let (mut pause, mut pods, mut busy) = (FIRST, JoinSet::new(), HashSet::new());
    let turns = Arc::new(Semaphore::new(ABREAST));
    loop {
        let due = Instant::now() + pause;
        loop {
            let idle = shared.leftovers.items().is_empty();
            tokio::select! {
                () = tokio::time::sleep_until(due), if !idle => break pause = (pause * 2).min(LONGEST),
                () = shared.leftovers.added.notified() => break pause = FIRST,
                Some(Ok(pod)) = pods.join_next() => drop(busy.remove(&pod)),
            }
        }
        let mut due: BTreeMap<SandboxId, Vec<Item>> = BTreeMap::new();
        for item in shared.leftovers.items().iter() {
            due.entry(item.leftover.pod.clone()).or_default().push(item.clone());
        }
        for (pod, items) in due {
            if busy.insert(pod.clone()) {
                let (shared, turns) = (Arc::clone(&shared), Arc::clone(&turns));
                pods.spawn(async move {
                    let _turn = turns.acquire().await;
                    try_all(&shared, items).await;
                    pod
                });
            }
        }
    }
}

/// Tries those of one pod.
async fn try_all(shared: &Arc<Shared>, items: Vec<Item>) {
    for item in items {
        if !shared.leftovers.needed(&item) {
            try_once(shared, item).await;
        }
    }
}

async fn try_once(shared: &Arc<Shared>, item: Item) {
    let (queue, _) = mpsc::unbounded_channel();
    let (_, canceled) = effect::cancel();
    let context = Context::new(shared, &item.leftover.record, queue, canceled);
    let (container, holding) = (item.leftover.container.as_ref(), &item.leftover.holding);
    // Whatever becomes of one, the others get their turn.
    let work = AssertUnwindSafe(effect::release_leftover(&context, container, holding));
    let done = match tokio::time::timeout(effect::LONGEST, work.catch_unwind()).await {
        Ok(Ok(done)) => done,
        Ok(Err(_)) => {
            effect::failed(Kind::Broken, format!("release.{holding}: a bug: it panicked"))
        }
        Err(_) => effect::failed(Kind::TimedOut, format!("release.{holding} did not end in time")),
    };
    match done {
        Ok(()) => {
            tracing::info!(pod = %item.leftover.pod, holding, "released what was left over");
            if let Some(row) = item.row {
                shared.records.settle(row);
            }
            shared.leftovers.items().retain(|i| i.number != item.number);
            shared.tidy_handlers();
        }
        Err(
            Trouble::Failed(why) | Trouble::Known(why) | Trouble::Living(why) | Trouble::Dead(why),
        ) => {
            let mut items = shared.leftovers.items();
            if let Some(kept) = items.iter_mut().find(|i| i.number == item.number) {
                kept.tries += 1;
                kept.leftover.error = why.message;
            }
        }
        Err(Trouble::Aborted) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod_task::tests::{bed, ready};
    use berth_pod::record::PodRecord;

    fn left(number: u8, holding: &str, record: &PodRecord) -> (Option<LeftoverId>, Leftover) {
        let pod = SandboxId::from_random([number; 32]);
        let record = Arc::new(PodRecord { id: pod.clone(), ..record.clone() });
        let leftover = Leftover {
            pod,
            container: None,
            holding: holding.into(),
            error: String::new(),
            since: 0,
            boot_id: record.boot_id.clone(),
            record,
        };
        (None, leftover)
    }

    #[tokio::test]
    async fn one_that_hangs_does_not_hold_up_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let shared = bed(dir.path()).await;
        let socket = dir.path().join("shim");
        // It is there, and answers nothing.
        let _shim = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let record = ready(&socket);
        shared.leftovers.add(vec![left(1, "sandbox", &record), left(2, "files", &record)]);
        let work = tokio::spawn(run(Arc::clone(&shared)));
        let report = loop {
            let report = shared.leftovers.report();
            if report.len() == 1 {
                break report;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert_eq!((report[0].holding.as_str(), report[0].tries), ("sandbox", 0));
        work.abort();
    }
}
