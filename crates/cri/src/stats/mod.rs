//! Figures of containers and pods, read from kernel files when asked.
//!
//! Reading is a use, not a wish: it goes on beside the pods' tasks, on a thread that may block.
//! Kernel files answer without waiting for anybody; a cgroup that is gone has no figures.

mod container;
mod figures;
mod network;
mod pod;
mod samples;

pub(crate) use container::{container_stats, forget_others};
pub(crate) use pod::pod_stats;
pub(crate) use samples::Samples;
