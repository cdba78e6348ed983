//! The series of cAdvisor by CRI: their names, labels and units, read from kernel files when asked.
//!
//! A series without a container's name in its labels is of the whole pod, as in cAdvisor: its cgroup,
//! and its network. CRI has whole numbers only, so seconds are rounded down.

mod container;
mod devices;
mod families;
mod kernel;
mod pod;
mod processes;
mod writer;

pub(crate) use families::descriptors;
pub(crate) use pod::pod_metrics;
