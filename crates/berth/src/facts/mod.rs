//! What the node and its OCI runtimes can do, asked of them.

mod device;
mod gvisor;
mod node;
mod runtime;

pub(crate) use node::node;
pub(crate) use runtime::{Memory, RuntimeFacts, ShimFacts};
