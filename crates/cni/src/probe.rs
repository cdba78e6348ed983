//! What is asked of plugins about the network as a whole: STATUS, VERSION and GC.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::plugin::{Call, Verb};
use crate::{Error, IF_NAME, Network, NetworkList, Result};

/// Can pods be attached now?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Yes, to this network.
    Ready {
        /// Its name.
        network: String,
    },
    /// No.
    NotReady {
        /// Why not, for people.
        message: String,
    },
}

impl Network {
    /// Is there a network, are its plugins there, do they speak its version, and do they say that
    /// they can serve (STATUS, from 1.1.0 on)?
    ///
    /// Below 1.1.0 this is a few `stat`s once the plugins are known; from 1.1.0 on it runs them
    /// each time: ask beside an RPC and answer the RPC from memory.
    pub async fn status(&self) -> Readiness {
        match self.probe().await {
            Ok(network) => Readiness::Ready { network: network.name.clone() },
            Err(error) => Readiness::NotReady { message: error.to_string() },
        }
    }

    async fn probe(&self) -> Result<Arc<NetworkList>> {
        let network = self.current()?;
        for plugin in &network.plugins {
            self.runner.find(&plugin.kind)?;
        }
        let deadline = Instant::now() + self.settings.deadlines.status;
        self.vet(&network, deadline).await?;
        if network.version.has_status() {
            for plugin in &network.plugins {
                let stdin = network.stdin(plugin, &Default::default(), None);
                let call = Call::about(Verb::Status);
                self.runner.run(&plugin.kind, &call, stdin, deadline).await?;
            }
        }
        Ok(network)
    }

    /// Asks each plugin once for its versions: otherwise the first pod would find out.
    async fn vet(&self, network: &Arc<NetworkList>, deadline: Instant) -> Result<()> {
        let vetted = || self.vetted.lock().unwrap_or_else(PoisonError::into_inner);
        if vetted().as_ref().is_some_and(|known| known == network) {
            return Ok(());
        }
        for plugin in &network.plugins {
            match self.versions(&plugin.kind, deadline).await {
                Ok(versions) if versions.iter().any(|v| v == network.version.as_str()) => {}
                Ok(versions) => {
                    let problem = format!(
                        "plugin {:?} speaks {}, not {}",
                        plugin.kind,
                        versions.join(", "),
                        network.version
                    );
                    return Err(Error::Config { path: network.file.clone(), problem });
                }
                Err(error @ (Error::Missing { .. } | Error::Run { .. })) => return Err(error),
                // It may serve all the same: that is not ours to deny.
                Err(error) => tracing::warn!("{error}"),
            }
        }
        *vetted() = Some(Arc::clone(network));
        Ok(())
    }

    /// VERSION: the versions that a plugin speaks.
    ///
    /// # Errors
    /// The plugin is missing, fails, or answers nonsense.
    pub async fn versions(&self, plugin: &str, deadline: Instant) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Answer {
            supported_versions: Vec<String>,
        }
        let call = Call::about(Verb::Version);
        let stdin = json!({"cniVersion": "1.0.0"}).to_string().into_bytes();
        let stdout = self.runner.run(plugin, &call, stdin, deadline).await?;
        let answer = call.object(plugin, &stdout)?;
        Answer::deserialize(&answer).map(|answer| answer.supported_versions).map_err(|e| {
            Error::Answer { plugin: plugin.to_owned(), verb: Verb::Version, problem: e.to_string() }
        })
    }

    /// GC: has the network drop every attachment but those of `keep` and those that the cache holds.
    /// Does nothing (false) unless the network is one that Berth owns, its configuration allows GC,
    /// and its version has it: others may share its plugins' state.
    ///
    /// # Errors
    /// A plugin failed; the others were called nevertheless.
    pub async fn collect(&self, keep: &[String]) -> Result<bool> {
        let network = self.current()?;
        if !self.settings.owned.contains(&network.name)
            || network.disable_gc
            || !network.version.has_status()
        {
            return Ok(false);
        }
        let after = self.settings.deadlines.gc;
        let deadline = Instant::now() + after;
        let _alone = tokio::time::timeout_at(deadline, self.gate.write())
            .await
            .map_err(|_| Error::Collecting { verb: Verb::Gc, after })?;
        let cached = self.cached().await?;
        let keep: BTreeSet<&str> = keep
            .iter()
            .map(String::as_str)
            .chain(cached.iter().map(|cached| cached.container_id.as_str()))
            .collect();
        let valid: Value =
            keep.iter().map(|id| json!({"containerID": id, "ifname": IF_NAME})).collect();
        let mut failure = None;
        for plugin in &network.plugins {
            let stdin = network.gc_stdin(plugin, &valid);
            let call = Call::about(Verb::Gc);
            match self.runner.run(&plugin.kind, &call, stdin, deadline).await {
                Ok(_) => {}
                Err(error) if failure.is_none() => failure = Some(error),
                Err(error) => tracing::warn!("{error}"),
            }
        }
        failure.map_or(Ok(true), Err)
    }
}
