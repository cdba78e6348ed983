//! The pods, as plugins get at them.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use berth_nri::api::{ContainerEviction, ContainerUpdate};
use berth_nri::{Boxed, Runtime, State};
use berth_pod::Kind;

use super::{config, describe, limits};
use crate::Node;
use crate::layout::Layout;
use crate::shared::Shared;

/// The pods of this node, as long as there is a daemon.
pub(super) struct Pods(pub(super) Weak<Shared>);

impl Runtime for Pods {
    fn state(&self, begun: &HashSet<String>) -> State {
        let mut state = State::default();
        let Some(shared) = self.0.upgrade() else { return state };
        for view in shared.registry.views() {
            let record = &view.record;
            if !view.listed && !begun.contains(record.id.as_str()) {
                continue;
            }
            state.pods.push(describe::pod(record));
            let listed: HashSet<&str> = view.containers.iter().map(|c| c.id().as_str()).collect();
            let known = |id: &str| listed.contains(id) || begun.contains(id);
            let living = record.containers.values().filter(|c| c.exit.is_none());
            for c in living.filter(|c| known(c.id.as_str())) {
                let config = config(Layout(&shared.settings), &c.id);
                state.containers.push(describe::container(record, c, config.as_ref()));
            }
        }
        state
    }

    fn update(&self, updates: Vec<ContainerUpdate>) -> Boxed<'_, Vec<(ContainerUpdate, String)>> {
        Box::pin(async move {
            let Some(shared) = self.0.upgrade() else { return Vec::new() };
            update(&shared, updates).await
        })
    }

    fn evict(&self, eviction: ContainerEviction) -> Boxed<'_, Result<(), String>> {
        Box::pin(async move {
            let Some(shared) = self.0.upgrade() else { return Ok(()) };
            evict(&shared, &eviction).await
        })
    }
}

/// Does what plugins want of other containers, in passing: what fails is told and changes nothing.
pub(super) async fn others(
    shared: &Arc<Shared>,
    updates: Vec<ContainerUpdate>,
    evictions: Vec<ContainerEviction>,
) {
    for eviction in evictions {
        if let Err(why) = evict(shared, &eviction).await {
            let container = eviction.container_id;
            tracing::warn!(container, error = why, "a container that an NRI plugin evicts stays");
        }
    }
    for (update, why) in update(shared, updates).await {
        let container = update.container_id;
        tracing::warn!(container, error = why, "what an NRI plugin asked for does not work");
    }
}

async fn evict(shared: &Arc<Shared>, eviction: &ContainerEviction) -> Result<(), String> {
    let (container, reason) = (&eviction.container_id, &eviction.reason);
    tracing::warn!(container, reason, "an NRI plugin evicts a container");
    let node = Node::over(shared);
    node.stop_container(container, Duration::ZERO).await.map_err(|why| why.to_string())
}

async fn update(
    shared: &Arc<Shared>,
    updates: Vec<ContainerUpdate>,
) -> Vec<(ContainerUpdate, String)> {
    let node = Node::over(shared);
    let mut failed = Vec::new();
    for update in updates {
        let resources = update.linux.clone().and_then(|linux| linux.resources).unwrap_or_default();
        let fixed = limits::unchangeable(&resources);
        let done = match fixed.is_empty() {
            false => Err(format!("{} cannot be changed once it is created", fixed.join(", "))),
            true => match node.set_resources(&update.container_id, limits::taken(&resources)).await
            {
                Err(why) if why.kind() != Kind::NotFound => Err(why.to_string()),
                _ => Ok(()),
            },
        };
        match done {
            Err(why) if update.ignore_failure => {
                let container = &update.container_id;
                tracing::info!(container, error = why, "an update that may fail has failed");
            }
            Err(why) => failed.push((update, why)),
            Ok(()) => {}
        }
    }
    failed
}
