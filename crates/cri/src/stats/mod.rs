//! Figures of containers and pods, read from kernel files when asked.
//!
//! Reading is a use, not a wish: it goes on beside the pods' tasks, on a thread that may block.
//! Kernel files answer without waiting for anybody; a cgroup that is gone has no figures.

mod container;
mod figures;
pub(crate) mod network;
mod pod;
mod samples;

pub(crate) use container::{container_stats, forget_others, is_alive};
pub(crate) use pod::{place, pod_stats};
pub(crate) use samples::Samples;
