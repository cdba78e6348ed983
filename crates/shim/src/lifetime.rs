//! When the shim ends: with the Sandbox API at ShutdownSandbox, otherwise at a Shutdown that finds
//! no task left.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// The shim's own life.
#[derive(Debug, Default)]
pub(crate) struct Lifetime {
    sandbox: AtomicBool,
    over: Notify,
}

impl Lifetime {
    /// The Sandbox API is used: only it ends the shim.
    pub(crate) fn belongs_to_sandbox(&self) {
        self.sandbox.store(true, Ordering::Relaxed);
    }

    /// Shutdown of Task. True if the shim ends.
    pub(crate) fn shutdown(&self, tasks_left: bool, now: bool) -> bool {
        let stays = self.sandbox.load(Ordering::Relaxed) || tasks_left;
        if stays && !now {
            return false;
        }
        self.over.notify_one();
        true
    }

    /// ShutdownSandbox.
    pub(crate) fn end(&self) {
        self.over.notify_one();
    }

    /// Waits for the end.
    pub(crate) async fn over(&self) {
        self.over.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_and_a_sandbox_keep_the_shim() {
        let life = Lifetime::default();
        assert!(!life.shutdown(true, false));
        assert!(life.shutdown(false, false));
        life.belongs_to_sandbox();
        assert!(!life.shutdown(false, false));
        assert!(life.shutdown(true, true), "now is now");
    }
}
