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

async fn evict(shared: &Arc<Shared>, eviction: &ContainerEviction) -> Result<(), String> {
    let (container, reason) = (&eviction.container_id, &eviction.reason);
    tracing::warn!(container, reason, "an NRI plugin evicts a container");
    let node = Node::over(shared);
    node.stop_container(container, Duration::ZERO).await.map_err(|why| why.to_string())
}

/// All of them are begun in their order by the first poll: each is in its pod's queue then.
async fn update(
    shared: &Arc<Shared>,
    updates: Vec<ContainerUpdate>,
) -> Vec<(ContainerUpdate, String)> {
    let each = updates.into_iter().map(async |update| {
        let done = change(&Node::over(shared), &update).await;
        match done {
            Err(why) if update.ignore_failure => {
                let container = &update.container_id;
                tracing::info!(container, error = why, "an update that may fail has failed");
                None
            }
            Err(why) => Some((update, why)),
            Ok(()) => None,
        }
    });
    futures_util::future::join_all(each).await.into_iter().flatten().collect()
}

async fn change(node: &Node, update: &ContainerUpdate) -> Result<(), String> {
    let resources = update.linux.clone().and_then(|linux| linux.resources).unwrap_or_default();
    let fixed = limits::unchangeable(&resources);
    if !fixed.is_empty() {
        return Err(format!("{} cannot be changed once it is created", fixed.join(", ")));
    }
    let id = &update.container_id;
    match node.set_resources(id, limits::taken(&resources)).await {
        Err(why) if why.kind() != Kind::NotFound => Err(why.to_string()),
        // Plugins know of it before it is listed.
        Err(_) if node.shared.registry.container(id).is_ok() => {
            Err("it is being created: ask again once it is".to_owned())
        }
        _ => Ok(()),
    }
}
