//! Launching shims and talking to them: Task (both generations), Sandbox, and the services of
//! Berth's own shim, over ttrpc.
//!
//! Owns: how a shim is found, started and cleaned up; its connection; the types that the daemon
//! sees of it. Must not know: pods, records, when to call what.
//!
//! ```text
//!   Launch ── `start` ──▶ Answer{address, version} ── dial ──▶ Shim ── calls ──▶ replies
//!                         (kept in the bundle, for adoption)    └── closed(): the shim is gone
//! ```
//!
//! One connection serves a pod. Calls may be dropped at any time and run concurrently; each has a
//! deadline of its own, but for Wait.

mod address;
mod answer;
mod connection;
mod counted;
mod decode;
mod error;
mod events;
mod frame;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod info;
mod launch;
mod log_fifo;
mod options;
mod own;
mod process;
mod sandbox;
mod shim;
mod task;
mod types;

pub use address::Address;
pub use answer::{Answer, Generation, parse_answer};
pub use counted::Counted;
pub use error::{Error, Kind};
pub use events::{Event, Events, publish};
pub use info::{Info, info};
pub use launch::{Form, Launch, Outcome, find_binary};
pub use log_fifo::hold_log;
pub use options::{RuncOptions, RuntimeInfo, RuntimeOptions, with_systemd};
pub use own::{Attachment, ExitFacts, Options};
pub use process::ShimProcess;
pub use sandbox::{CreateSandbox, SandboxStarted, SandboxStatus};
pub use shim::{Deadlines, Shim};
pub use task::{Checkpoint, Create, Exec, State};
pub use types::{Any, Exited, Mount, Status};

/// What this crate's functions return.
pub type Result<T> = std::result::Result<T, Error>;
