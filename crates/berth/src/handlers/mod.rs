//! The handlers of this node: what is configured or found, looked at, one by one.
//!
//! ```text
//!   configuration ─┬─▶ each: shim, runtime, base spec ─▶ well | broken, and why ─▶ Offered
//!   found on PATH ─┘                (all at once)
//! ```

mod found;
mod look;

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_lifecycle::{Handler, Offered};
use tokio::task::JoinSet;

use crate::config::{Config, HandlerConfig};
use crate::facts::Memory;
use crate::find;

/// Why a handler cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    /// The key that is to blame, within the handler's table; "" is the table.
    pub(crate) key: &'static str,
    /// What is wrong, and what to do.
    pub(crate) why: String,
}

/// Every handler by its name, as it turned out.
pub(crate) type Looked = BTreeMap<String, Result<Handler, Broken>>;

/// Looks at every handler that is configured, or that is found when none is.
pub(crate) async fn look_at_all(config: &Config) -> Looked {
    let memory = Arc::new(Memory::read(config.state.join("runtimes.json")));
    let mut looks = JoinSet::new();
    for (name, handler) in all(config) {
        let memory = Arc::clone(&memory);
        looks.spawn(async move {
            let looked = look::at(&handler, &memory).await;
            (name, looked)
        });
    }
    let mut looked = Looked::new();
    while let Some(done) = looks.join_next().await {
        match done {
            Ok((name, handler)) => drop(looked.insert(name, handler)),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
    memory.save();
    looked
}

/// What is configured, and what is found where the operator has named no handler of his own.
fn all(config: &Config) -> BTreeMap<String, HandlerConfig> {
    let mut all = match config.find_handlers {
        true => found::handlers(config, &find::directories()),
        false => BTreeMap::new(),
    };
    all.extend(config.handlers.clone());
    all
}

/// What pods can be begun with. `before` is what that was so far: what is new about it is logged.
pub(crate) fn offer(looked: Looked, default: &str, before: &Offered) -> Offered {
    let offer = |(name, looked): (String, Result<Handler, Broken>)| {
        let offer = looked.map(Arc::new).map_err(|broken| match broken.key {
            "" => broken.why,
            key => format!("{key}: {}", broken.why),
        });
        (name, offer)
    };
    let handlers: BTreeMap<_, _> = looked.into_iter().map(offer).collect();
    let offered = Offered { default: default.to_owned(), handlers };
    for (name, offer) in &offered.handlers {
        match offer {
            _ if before.handlers.get(name) == Some(offer) => {}
            Ok(handler) => tracing::info!(
                handler = name,
                shim = %handler.shim.display(),
                runtime = handler.runtime.as_ref().map(|runtime| runtime.display().to_string()),
                recursive_read_only = handler.facts.recursive_read_only,
                id_mapped_mounts = handler.facts.id_mapped_mounts,
                "handler offered"
            ),
            Err(error) => tracing::error!(handler = name, error, "this handler refuses its pods"),
        }
    }
    for name in before.handlers.keys().filter(|name| !offered.handlers.contains_key(*name)) {
        tracing::info!(handler = name, "handler removed: its pods go on, and no new one is begun");
    }
    offered
}
