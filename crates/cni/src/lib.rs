//! Pod networks through CNI plugins (spec 0.3.0 to 1.1.0).
//!
//! Owns: which network is configured, how its plugins are called, and what they answered (cached in
//! Berth's own directory, so that DEL works when netns and configuration are gone).
//! Must not know: pods' life cycles, records, gRPC. Host-network pods never come here, and the
//! loopback device is brought up with the namespaces, not by a plugin.
//!
//! ```text
//!   conf dir ──▶ NetworkList ──┐
//!   Attachment ────────────────┼──▶ ADD: plugin 1 ▶ plugin 2 ▶ … ──▶ cache ──▶ Attached
//!   cache ─────────────────────┴──▶ DEL: … ◀ plugin 2 ◀ plugin 1     (no configuration needed)
//! ```
//!
//! The cache entry is written before the first plugin runs (without a result) and again after the
//! last one: whatever instant the daemon dies at, DEL finds the configuration that ADD used.

mod attachment;
mod bandwidth;
mod cache;
mod config;
mod discovery;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod network;
mod plugin;
mod probe;
mod result;
mod template;
mod version;

pub use attachment::{Attachment, Bandwidth, Dns, IpRange, PodIdentity, PortMapping, Protocol};
pub use bandwidth::BandwidthError;
pub use cache::Cached;
pub use config::{NetworkList, Plugin};
pub use discovery::{Absent, Skipped};
pub use error::{Error, Kind, PluginError};
pub use network::{Deadlines, IF_NAME, Network, Settings};
pub use plugin::Verb;
pub use probe::Readiness;
pub use result::{Attached, Interface, Ip, Route};
pub use template::Rendered;
pub use version::Version;

/// What this crate's functions return.
pub type Result<T> = std::result::Result<T, Error>;
