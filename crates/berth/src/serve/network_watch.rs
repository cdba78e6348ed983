//! Is the network ready? Asked in the background, answered from memory.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use berth_cni::{Network, Readiness};
use berth_cri::Condition;

/// How old the answer may get; the kubelet asks every 5 s.
const INTERVAL: Duration = Duration::from_secs(2);

/// The last answer.
#[derive(Clone)]
pub(super) struct NetworkWatch(Arc<Mutex<Readiness>>);

impl NetworkWatch {
    /// Asks once, and then again and again.
    pub(super) async fn start(network: Arc<Network>) -> Self {
        let watch = Self(Arc::new(Mutex::new(network.status().await)));
        let last = watch.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(INTERVAL).await;
                last.take(network.status().await);
            }
        });
        watch
    }

    fn take(&self, now: Readiness) {
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
