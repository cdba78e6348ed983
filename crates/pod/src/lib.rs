//! What a pod is to Berth, without doing anything: ids, admitted specs, wishes, holdings, and the
//! loop that turns a wish into steps.
//!
//! This crate is pure: it knows no file, no socket, no clock. `lifecycle` drives it.

mod checkpoint;
pub mod error;
pub mod holding;
pub mod id;
pub mod job;
pub mod machine;
pub mod plan;
pub mod record;
pub mod spec;
pub mod verdict;

pub use error::Kind;
pub use id::{ContainerId, SandboxId};
