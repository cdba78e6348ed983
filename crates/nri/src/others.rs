//! What plugins want of containers that nobody has asked them about.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::task::JoinHandle;

use crate::Runtime;
use crate::api::{ContainerEviction, ContainerUpdate};

/// It has begun, and goes on whatever becomes of this.
#[derive(Debug, Default)]
pub struct Others(Option<JoinHandle<()>>);

impl Others {
    /// Begins it: before what is begun later, and nothing of it waits for the rest. What fails is told,
    /// and changes nothing.
    pub(crate) fn begin(
        runtime: &Arc<dyn Runtime>,
        updates: Vec<ContainerUpdate>,
        evictions: Vec<ContainerEviction>,
    ) -> Self {
        if updates.is_empty() && evictions.is_empty() {
            return Self(None);
        }
        let runtime = Arc::clone(runtime);
        let mut work = Box::pin(async move { change(&*runtime, updates, evictions).await });
        // By the first poll each is in its pod's queue.
        match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(()) => Self(None),
            Poll::Pending => Self(Some(tokio::spawn(work))),
        }
    }

    /// Resolves when it is done, or has failed.
    pub async fn done(self) {
        if let Some(work) = self.0 {
            // A panic has been told.
            let _ = work.await;
        }
    }
}

async fn change(
    runtime: &dyn Runtime,
    updates: Vec<ContainerUpdate>,
    evictions: Vec<ContainerEviction>,
) {
    let evictions = evictions.into_iter().map(|eviction| async move {
        let container = eviction.container_id.clone();
        if let Err(error) = runtime.evict(eviction).await {
            tracing::warn!(container, error, "a container that an NRI plugin evicts stays");
        }
    });
    let evicted = pin!(futures_util::future::join_all(evictions));
    let updated = async {
        for (update, error) in runtime.update(updates).await {
            let container = update.container_id;
            tracing::warn!(container, error, "what an NRI plugin asked for does not work");
        }
    };
    futures_util::future::join(evicted, updated).await;
}
