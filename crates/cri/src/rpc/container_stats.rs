//! ContainerStats.

use std::sync::Arc;

use berth_proto::cri::v1 as cri;

use super::{on_thread, required};
use crate::{Cri, Error, stats};

pub(crate) async fn container_stats(
    cri: &Cri,
    request: cri::ContainerStatsRequest,
) -> Result<cri::ContainerStatsResponse, Error> {
    let id = required("container_id", &request.container_id)?;
    let container = cri.parts.node.container(id)?;
    let guests = cri.parts.node.guest_usage(&[Arc::clone(&container)]).await;
    let cri = cri.clone();
    let read = move || stats::container_stats(&cri, &container, &guests);
    Ok(cri::ContainerStatsResponse { stats: Some(on_thread("statistics", read).await?) })
}
