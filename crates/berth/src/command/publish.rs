//! `berth publish`: what a shim runs to tell of an event that it could not send itself.

use std::io::Read as _;

use anyhow::Context as _;

use crate::cli::Publish;

/// No event is larger.
const EVENT: u64 = 1 << 20;

/// Where a shim was told to send events.
const ADDRESS: &str = "TTRPC_ADDRESS";

/// Hands the event on standard input to the daemon.
pub(crate) async fn run(publish: Publish) -> anyhow::Result<()> {
    let mut event = Vec::new();
    let read = std::io::stdin().lock().take(EVENT).read_to_end(&mut event);
    read.context("cannot read the event from standard input")?;
    let given = Some(publish.address).filter(|address| !address.is_empty());
    let address = given.or_else(|| std::env::var(ADDRESS).ok()).unwrap_or_default();
    anyhow::ensure!(!address.is_empty(), "nobody to publish to: give --address, or set {ADDRESS}");
    berth_shim_client::publish(&address, &publish.namespace, &publish.topic, &event).await?;
    Ok(())
}
