//! What could not be released though its pod has been let go: tried again, less and less often,
//! until it works. The operator sees it; nobody waits for it.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use berth_pod::Kind;
use berth_pod::holding::{ContainerHolding, Holding as _};
use berth_pod::record::Leftover;
use berth_records::LeftoverId;
use futures_util::FutureExt as _;
use tokio::sync::{Notify, mpsc};

use crate::effect::{self, Context, Trouble};
use crate::shared::Shared;
use crate::view::LeftoverReport;

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

/// Tries them again for as long as the daemon runs.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut pause = FIRST;
    loop {
        if shared.leftovers.items().is_empty() {
            shared.leftovers.added.notified().await;
            pause = FIRST;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST),
            () = shared.leftovers.added.notified() => pause = FIRST,
        }
        let due = shared.leftovers.items().clone();
        for item in due {
            if !shared.leftovers.needed(&item) {
                try_once(&shared, item).await;
            }
        }
    }
}

async fn try_once(shared: &Arc<Shared>, item: Item) {
    let (queue, _) = mpsc::unbounded_channel();
    let (_, canceled) = effect::cancel();
    let record = Arc::clone(&item.leftover.record);
    let context = Context { shared: Arc::clone(shared), record, queue, canceled };
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
        }
        Err(Trouble::Failed(why) | Trouble::Living(why) | Trouble::Dead(why)) => {
            let mut items = shared.leftovers.items();
            if let Some(kept) = items.iter_mut().find(|i| i.number == item.number) {
                kept.tries += 1;
                kept.leftover.error = why.message;
            }
        }
        Err(Trouble::Aborted) => {}
    }
}
