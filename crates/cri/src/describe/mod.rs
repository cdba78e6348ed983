//! Views of the lifecycle → CRI messages.

mod container;
mod image;
mod info;
mod pod;
mod resources;

pub(crate) use container::{container_entry, container_state, container_status, metadata};
pub(crate) use image::{filesystem, image};
pub(crate) use info::{container_info, image_info, pod_info, runtime_type};
pub(crate) use pod::{pod_entry, pod_metadata, pod_state, pod_status};

/// Now, in nanoseconds since the epoch, as CRI counts time.
pub(crate) fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests;
