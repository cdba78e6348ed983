//! Memory goes back to the kernel once calls are over: what an idle shim takes is the price of a pod.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Calls come in bursts: a container's creation is followed by its start.
const QUIET: Duration = Duration::from_secs(1);

static PENDING: AtomicBool = AtomicBool::new(false);

/// To be told when a call is over: a moment later what it freed is given back, and the stack that it
/// needed. Called on the event loop, whose thread it does this for.
pub fn after_call() {
    if PENDING.swap(true, Ordering::Relaxed) {
        return;
    }
    tokio::spawn(async {
        tokio::time::sleep(QUIET).await;
        PENDING.store(false, Ordering::Relaxed);
        berth_sys::heap::trim();
        // Nothing depends on it.
        let _ = berth_sys::stack::give_back();
    });
}
