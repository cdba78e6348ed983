//! What the services share: the runtime, the events in their order, the shim's life.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_process::{Ended, Target};
use berth_proto::events as wire;
use tokio::sync::watch;

use crate::error::{status, to_wire};
use crate::events::Events;
use crate::lifetime::Lifetime;
use crate::messages::timestamp;
use crate::runtime::{Context, Runtime, TaskOptions};

/// One pod in one shim.
pub(crate) struct Pod {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) options: TaskOptions,
    /// containerd's.
    pub(crate) namespace: String,
    pub(crate) events: Events,
    pub(crate) lifetime: Lifetime,
    watches: Mutex<HashMap<Target, Watch>>,
}

/// Orders the events of one process.
#[derive(Clone, Debug)]
struct Watch {
    /// Held while it starts: its exit is announced after its start.
    gate: Gate,
    /// Closed when its exit has been announced: it is deleted after that.
    announced: watch::Receiver<()>,
}

type Gate = Arc<tokio::sync::Mutex<()>>;

impl Pod {
    pub(crate) fn new(runtime: Arc<dyn Runtime>, context: Context, events: Events) -> Self {
        let (lifetime, watches) = (Lifetime::default(), Mutex::default());
        let Context { options, namespace, .. } = context;
        Self { runtime, options, namespace, events, lifetime, watches }
    }

    fn watches(&self) -> MutexGuard<'_, HashMap<Target, Watch>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The gate of a process; nobody needs one where nobody listens.
    pub(crate) fn gate(&self, target: &Target) -> Gate {
        self.watches().get(target).map(|watch| Arc::clone(&watch.gate)).unwrap_or_default()
    }

    /// Waits until the exit of an ended process has been announced.
    pub(crate) async fn announced(&self, target: &Target) {
        let watch = self.watches().get(target).cloned();
        if self.runtime.facts(target).is_ok_and(|facts| facts.ended.is_some())
            && let Some(mut watch) = watch
        {
            // An error is the answer: the sender has gone.
            let _ = watch.announced.changed().await;
        }
    }

    /// Announces the exit of a process when it comes.
    pub(crate) fn watch(self: &Arc<Self>, target: Target) {
        if !self.events.wanted() {
            return;
        }
        let (done, announced) = watch::channel(());
        let gate = Gate::default();
        self.watches().insert(target.clone(), Watch { gate: Arc::clone(&gate), announced });
        let pod = Arc::clone(self);
        tokio::spawn(async move {
            let _done = done;
            let ended = pod.runtime.wait(&target).await;
            let pid = pod.runtime.facts(&target).map_or(0, |facts| facts.pid);
            drop(gate.lock().await);
            if let Ok(ended) = ended {
                pod.announce(&target, pid, ended).await;
            }
            // Not before: whoever has to come after it finds it here.
            pod.watches().remove(&target);
        });
    }

    async fn announce(&self, target: &Target, pid: u32, ended: Ended) {
        let container_id = target.container.clone();
        if ended.oom_kills > 0 {
            let oom = wire::TaskOOM { container_id: container_id.clone(), ..Default::default() };
            self.events.tell("/tasks/oom", "TaskOOM", &oom).await;
        }
        let exit = wire::TaskExit {
            id: target.exec.clone().unwrap_or_else(|| container_id.clone()),
            container_id,
            pid,
            exit_status: ended.code,
            exited_at: timestamp(ended.at),
            ..Default::default()
        };
        self.events.publish("/tasks/exit", "TaskExit", &exit);
    }
}

/// Finishes an operation even if its caller goes away or runs out of time half way: the server
/// drops a handler then.
pub(crate) async fn finished<T: Send + 'static>(
    operation: impl Future<Output = berth_process::Result<T>> + Send + 'static,
) -> ttrpc::Result<T> {
    let over = async move {
        let result = operation.await;
        berth_process::quiet::after_call();
        result
    };
    match tokio::spawn(over).await {
        Ok(result) => result.map_err(|error| to_wire(&error)),
        Err(error) => Err(status(ttrpc::Code::INTERNAL, error)),
    }
}
