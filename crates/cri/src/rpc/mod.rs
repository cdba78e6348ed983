//! One file per RPC.

pub(crate) mod attach;
pub(crate) mod checkpoint_container;
pub(crate) mod container_stats;
pub(crate) mod container_status;
pub(crate) mod create_container;
pub(crate) mod exec;
pub(crate) mod exec_sync;
pub(crate) mod get_container_events;
pub(crate) mod image_fs_info;
pub(crate) mod image_status;
pub(crate) mod list_container_stats;
pub(crate) mod list_containers;
pub(crate) mod list_images;
pub(crate) mod list_metric_descriptors;
pub(crate) mod list_pod_sandbox;
pub(crate) mod list_pod_sandbox_metrics;
pub(crate) mod list_pod_sandbox_stats;
pub(crate) mod pod_sandbox_stats;
pub(crate) mod pod_sandbox_status;
pub(crate) mod port_forward;
pub(crate) mod pull_image;
pub(crate) mod remove_container;
pub(crate) mod remove_image;
pub(crate) mod remove_pod_sandbox;
pub(crate) mod reopen_container_log;
pub(crate) mod run_pod_sandbox;
pub(crate) mod runtime_config;
pub(crate) mod start_container;
pub(crate) mod status;
pub(crate) mod stop_container;
pub(crate) mod stop_pod_sandbox;
pub(crate) mod stream_container_stats;
pub(crate) mod stream_containers;
pub(crate) mod stream_images;
pub(crate) mod stream_pod_sandbox_metrics;
pub(crate) mod stream_pod_sandbox_stats;
pub(crate) mod stream_pod_sandboxes;
pub(crate) mod update_container_resources;
pub(crate) mod update_pod_sandbox_resources;
pub(crate) mod update_runtime_config;
pub(crate) mod version;

use crate::Error;

/// An id that must be there: an empty one would be the prefix of every id.
pub(crate) fn required<'a>(field: &'static str, id: &'a str) -> Result<&'a str, Error> {
    if id.is_empty() { Err(Error::NoId(field)) } else { Ok(id) }
}

/// The reference in a request about an image.
pub(crate) fn image_name(image: Option<&berth_proto::cri::v1::ImageSpec>) -> Result<&str, Error> {
    required("image.image", image.map_or("", |image| &image.image))
}

/// Runs what reads files on a thread that may block.
pub(crate) async fn on_thread<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Dropped(what))
}
