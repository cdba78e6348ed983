//! Is the network ready? Asked in the background, answered from memory.

use std::sync::Arc;
use std::time::Duration;

use berth_cni::{Network, Readiness};
use berth_cri::Condition;
use tokio::sync::watch;

/// How old a good answer may get; the kubelet asks every 5 s.
const WHEN_READY: Duration = Duration::from_secs(5);

/// How old a bad one may get: somebody is waiting for the network.
const WHEN_NOT: Duration = Duration::from_secs(1);

/// How long the first answer is waited for by whoever asks.
const FIRST: Duration = Duration::from_secs(1);

/// The last answer; none before the first.
#[derive(Clone)]
pub(super) struct NetworkWatch(watch::Receiver<Option<Readiness>>);

impl NetworkWatch {
    /// Asks again and again. A plugin that is slow to answer holds nobody up but who asks for it.
    pub(super) fn start(network: Arc<Network>) -> Self {
        let (tell, last) = watch::channel(None);
        tokio::spawn(async move {
            loop {
                let ready = take(&tell, network.status().await);
                tokio::time::sleep(if ready { WHEN_READY } else { WHEN_NOT }).await;
            }
        });
        Self(last)
    }

    /// `NetworkReady`, as Status answers it.
    pub(super) async fn condition(&self) -> Condition {
        let mut last = self.0.clone();
        let _ = tokio::time::timeout(FIRST, last.wait_for(Option::is_some)).await;
        let (holds, reason, message) = match last.borrow().clone() {
            Some(Readiness::Ready { .. }) => (true, String::new(), String::new()),
            Some(Readiness::NotReady { message }) => (false, "NetworkNotReady".to_owned(), message),
            None => {
                let message = "the plugins have not answered STATUS yet".to_owned();
                (false, "NetworkNotReady".to_owned(), message)
            }
        };
        Condition { name: "NetworkReady", holds, reason, message }
    }
}

fn take(last: &watch::Sender<Option<Readiness>>, now: Readiness) -> bool {
    let ready = matches!(now, Readiness::Ready { .. });
    if last.borrow().as_ref() != Some(&now) {
        match &now {
            Readiness::Ready { network } => tracing::info!(network, "the network is ready"),
            Readiness::NotReady { message } => {
                tracing::warn!(message, "the network is not ready");
            }
        }
        last.send_replace(Some(now));
    }
    ready
}
