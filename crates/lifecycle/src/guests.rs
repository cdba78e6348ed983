//! Figures of containers that no cgroup counts: their processes are those of a kernel of their own,
//! and the shim is asked.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use berth_cgroup::{Memory, Usage};
use berth_shim_client::Counted;
use tokio::task::JoinSet;

use crate::effect::{Context, connection};
use crate::node::Node;
use crate::view::ContainerView;

/// An OCI runtime is run for each answer. Who has none by then has no figures this time.
const ANSWER: Duration = Duration::from_secs(5);

/// What the shims say, by the ids of containers.
pub type GuestUsage = HashMap<String, Usage>;

impl Node {
    /// Asks about those of these containers that run on kernels of their own.
    pub async fn guest_usage(&self, containers: &[Arc<ContainerView>]) -> GuestUsage {
        let mut asked = JoinSet::new();
        if self.any_guests() {
            for container in containers {
                let id = container.id().as_str();
                if let Ok((context, _)) = self.running(id) {
                    let id = id.to_owned();
                    asked.spawn(async move {
                        let usage = tokio::time::timeout(ANSWER, usage(&context, &id)).await;
                        Some((id, usage.ok().flatten()?))
                    });
                }
            }
        }
        asked.join_all().await.into_iter().flatten().collect()
    }
}

async fn usage(context: &Context, id: &str) -> Option<Usage> {
    context.handler().ok()?.facts.guest_network?;
    let shim = connection(context).await.ok()?;
    Some(of(shim.counted(id).await.ok()?))
}

fn of(counted: Counted) -> Usage {
    let memory = Memory {
        usage: counted.memory,
        working_set: counted.working_set,
        rss: counted.rss,
        ..Memory::default()
    };
    let cpu_ns = Some(counted.cpu_ns);
    Usage { at: SystemTime::now(), cpu_ns, memory: Some(memory), swap: None }
}
