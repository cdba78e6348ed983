//! Memory goes back to the kernel once a burst of calls is over.
//!
//! What a burst needed is free afterwards, but lies scattered in the heap: the C library keeps it. A
//! daemon that started a hundred pods an hour ago must not be larger for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// A burst is over when nothing was changed for this long.
const QUIET: Duration = Duration::from_secs(1);

/// Trimmed at least this often while calls go on.
const LONGEST: u32 = 30;

/// Told of calls that change something.
#[derive(Clone, Default)]
pub(super) struct Rest(Arc<Calls>);

#[derive(Default)]
struct Calls {
    count: AtomicU64,
    came: Notify,
}

impl Rest {
    /// Watches for the ends of bursts, for as long as the daemon runs.
    pub(super) fn start() -> Self {
        let rest = Self::default();
        let calls = Arc::clone(&rest.0);
        calls.came.notify_one(); // taking up the pods of before was a burst as well
        tokio::spawn(async move {
            loop {
                calls.came.notified().await;
                for _ in 0..LONGEST {
                    let before = calls.count.load(Ordering::Relaxed);
                    tokio::time::sleep(QUIET).await;
                    if calls.count.load(Ordering::Relaxed) == before {
                        break;
                    }
                }
                let _ = tokio::task::spawn_blocking(berth_sys::heap::trim).await;
            }
        });
        rest
    }

    /// A call has ended. Lists and status are asked for all the time and leave nothing behind.
    pub(super) fn after(&self, method: &str) {
        let reads = ["List", "Status", "Stats", "Version", "Info", "Config"];
        if !reads.iter().any(|word| method.contains(word)) {
            self.0.count.fetch_add(1, Ordering::Relaxed);
            self.0.came.notify_one();
        }
    }
}
