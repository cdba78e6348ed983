//! Is the network ready? Asked in the background, answered from memory.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use berth_cni::{Network, Readiness};
use berth_cri::Condition;

/// How old a good answer may get; the kubelet asks every 5 s.
const WHEN_READY: Duration = Duration::from_secs(5);

/// How old a bad one may get: somebody is waiting for the network.
const WHEN_NOT: Duration = Duration::from_secs(1);

/// How long the first answer is waited for before CRI is served.
const FIRST: Duration = Duration::from_secs(1);

/// The last answer.
#[derive(Clone)]
pub(super) struct NetworkWatch(Arc<Mutex<Readiness>>);

impl NetworkWatch {
    /// Asks again and again. A plugin that is slow to answer does not hold the daemon up.
    pub(super) async fn start(network: Arc<Network>) -> Self {
        let message = "the plugins have not answered STATUS yet".to_owned();
        let watch = Self(Arc::new(Mutex::new(Readiness::NotReady { message })));
        let (first, answered) = tokio::sync::oneshot::channel();
        let (last, mut first) = (watch.clone(), Some(first));
        tokio::spawn(async move {
            loop {
                let ready = last.take(network.status().await);
                if let Some(first) = first.take() {
                    // Nobody waits any more if it took too long.
                    let _ = first.send(());
                }
                tokio::time::sleep(if ready { WHEN_READY } else { WHEN_NOT }).await;
            }
        });
        let _ = tokio::time::timeout(FIRST, answered).await;
        watch
    }

    fn take(&self, now: Readiness) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *last != now {
            match &now {
                Readiness::Ready { network } => tracing::info!(network, "the network is ready"),
                Readiness::NotReady { message } => {
                    tracing::warn!(message, "the network is not ready");
                }
            }
            *last = now;
        }
        matches!(*last, Readiness::Ready { .. })
    }

    /// `NetworkReady`, as Status answers it.
    pub(super) fn condition(&self) -> Condition {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (holds, reason, message) = match last {
            Readiness::Ready { .. } => (true, String::new(), String::new()),
            Readiness::NotReady { message } => (false, "NetworkNotReady".to_owned(), message),
        };
        Condition { name: "NetworkReady", holds, reason, message }
    }
}
