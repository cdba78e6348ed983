//! The kit that a shim is made of: the ttrpc server for both generations of Task and for Sandbox,
//! the `start` and `delete` of the command line, grouping, events, and the shim's own lifetime.
//!
//! Implement [`Runtime`] and call [`run()`]:
//!
//! ```text
//!  start ──▶ forks ──▶ serve ── Task v2, v3 ─┐
//!    │ answers address    ├──── Sandbox ─────┼─▶ Pod ──▶ Runtime (yours)
//!    ▼                    └──── Stdio, Facts ┘    └────▶ Events ──▶ TTRPC_ADDRESS
//!  delete ──▶ Runtime::clean_up
//! ```
//!
//! It owns the wire and the life of the shim's process. It must not know how a container is made:
//! that is the runtime's.

mod arguments;
mod bootstrap;
mod error;
mod events;
mod lifetime;
mod messages;
mod metrics;
mod own;
mod plain;
mod pod;
mod run;
mod runtime;
mod sandbox;
mod serve;
mod settings;
mod task;

pub use arguments::{Action, Arguments};
pub use async_trait::async_trait;
pub use berth_process as process;
pub use berth_process::plain::{Bundle, Inside, Launch, Mount, Process, Program, Shim, Spec, User};
pub use berth_process::sys;
pub use error::{Error, Result};
pub use metrics::Metrics;
pub use plain::main;
pub use run::run;
pub use runtime::{
    Checkpoint, Context, PodRequest, Runtime, RuntimeFactory, SandboxFacts, SandboxRequest,
    TaskOptions,
};
