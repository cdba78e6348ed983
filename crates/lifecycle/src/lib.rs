//! One task per pod: it owns the pod's record, turns wishes into jobs, and publishes what is true.
//!
//! The loop itself is pure and lives in `berth-pod`; this crate drives it with real effects.
//!
//! ```text
//!   Node ──▶ registry ──▶ pod task ──▶ machine (pure)
//!                │            │  ├──▶ effects: one job per holding, each with deadlines
//!   lists ◀── pictures ◀──────┘  └──▶ records: one writer
//! ```
//!
//! It must not know CRI's wire types, nor how a shim or a CNI plugin is spoken to.

mod carry;
mod command;
mod convert;
mod effect;
mod error;
mod events;
mod exec;
mod family;
mod figures;
mod guests;
mod handlers;
mod kept;
mod layout;
mod leftovers;
mod node;
mod nri;
mod picture;
mod pod_task;
mod registry;
mod session;
mod settings;
mod shared;
mod shim_log;
mod start;
pub mod view;

pub use berth_nri::{PluginReport, Settings as NriSettings};
pub use effect::restore::Checkpointed;
pub use error::Error;
pub use events::{Change, Happening, Listening, Silence};
pub use figures::Step;
pub use guests::GuestUsage;
pub use handlers::{Offer, Offered};
pub use node::{ExecOutput, Node};
pub use session::{BoxRead, BoxWrite, Size, Streams};
pub use settings::{Handler, SandboxMode, Settings, ShimKind, ShimOptions};
pub use start::{Parts, plugins_cgroup};
pub use view::{ContainerState, ContainerView, HandlerReport, NodeReport, PodView};
