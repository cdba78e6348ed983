//! What the node and its OCI runtimes can do, found out once at start.

mod device;
mod node;
mod runtime;

pub(crate) use node::node;
pub(crate) use runtime::{RuntimeFacts, runtime};
