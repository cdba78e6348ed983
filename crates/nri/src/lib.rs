//! Plugins of the Node Resource Interface: their connections, what they are told and asked, and what
//! comes of several answers together.
//!
//! Owns: the socket, the programs of pre-installed plugins, registration, the order of calls, the rule
//! that two plugins must not set the same. Must not know: how pods are run, nor what an adjustment
//! means for an OCI spec; whoever does gives a [`Runtime`] and asks [`Nri`].
//!
//! ```text
//!   socket ─▶ handshake ─┐                       ┌─▶ plugin 00 ┐
//!   programs ─▶ handshake┴─▶ queue ─▶ the hub ───┼─▶ plugin 10 ├─▶ merged answer
//!   lifecycle: ask, tell ──▶                     └─▶ plugin 20 ┘
//! ```
//!
//! Everything goes through one queue: plugins see all of it in one order, and one that joins is given
//! the state between two entries of it, so nothing is lost and nothing told twice. While there is no
//! plugin nothing is queued.

mod error;
pub mod frame;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod hub;
mod launch;
mod listen;
mod merge;
mod others;
mod owners;
pub mod peer;
mod plugin;
mod required;
mod resources;
mod sync;
mod updates;

use std::collections::HashSet;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

pub use berth_proto::nri::v1alpha1 as api;
pub use error::{Error, Kind, Result};
pub use hub::{Nri, PluginReport, Telling};
pub use merge::removal;
pub use others::Others;
pub use peer::Failure;

/// Where plugins are, and how long they may take.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What plugins are told of the runtime: its name and version.
    pub runtime: (String, String),
    /// The socket at which plugins register; none: nobody can.
    pub socket: Option<PathBuf>,
    /// Where pre-installed plugins lie; none are started if it does not exist.
    pub plugins: PathBuf,
    /// Where their configurations lie.
    pub configs: PathBuf,
    /// The files by which their processes enter their cgroup.
    pub cgroups: Vec<PathBuf>,
    /// How long a plugin may take to register.
    pub registration: Duration,
    /// How long it may take to answer a request.
    pub request: Duration,
    /// Plugins without which no container is created, by name or by index and name.
    pub required: Vec<String>,
    /// The pod annotation by which a container does without them; "" for none.
    pub tolerate: String,
}

/// A future in a box.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Pods and containers as plugins are to know them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// The pods.
    pub pods: Vec<api::PodSandbox>,
    /// Their containers that have not ended.
    pub containers: Vec<api::Container>,
}

/// Who runs the pods.
pub trait Runtime: Send + Sync + 'static {
    /// All pods and containers, and of those that are being created the ones with these ids. It may
    /// read the disk.
    fn state(&self, begun: &HashSet<String>) -> State;

    /// Changes containers' limits as plugins ask; gives those that could not be changed, and why not,
    /// but for those that may fail. One that is gone is no failure. The first poll begins all of them:
    /// of two changes of a container the later poll's stays.
    fn update(
        &self,
        updates: Vec<api::ContainerUpdate>,
    ) -> Boxed<'_, Vec<(api::ContainerUpdate, String)>>;

    /// Ends a container at once, for this reason; the first poll begins it. One that is gone is no
    /// failure.
    fn evict(&self, eviction: api::ContainerEviction)
    -> Boxed<'_, std::result::Result<(), String>>;
}
