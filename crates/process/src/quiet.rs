//! Memory goes back to the kernel once calls are over: what an idle shim takes is the price of a pod.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Calls come in bursts: a container's creation is followed by its start.
const QUIET: Duration = Duration::from_secs(1);

static PENDING: AtomicBool = AtomicBool::new(false);
static DUE: AtomicBool = AtomicBool::new(false);

/// To be told when a call is over: a moment later [`give_back`] has something to do. Called on the
/// event loop.
pub fn after_call() {
    if PENDING.swap(true, Ordering::Relaxed) {
        return;
    }
    tokio::spawn(async {
        tokio::time::sleep(QUIET).await;
        PENDING.store(false, Ordering::Relaxed);
        DUE.store(true, Ordering::Relaxed);
    });
}

/// Gives back what calls freed, and the stack that they needed, once they have been over for a
/// moment. To be called by the event loop's thread when it goes to sleep: no task is on its stack.
pub fn give_back() {
    if DUE.swap(false, Ordering::Relaxed) {
        berth_sys::heap::trim();
        // Nothing depends on it.
        let _ = berth_sys::stack::give_back();
    }
}
