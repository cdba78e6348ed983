//! ListContainerStats.

use berth_proto::cri::v1 as cri;

use super::on_thread;
use crate::{Cri, Error, filter, stats};

pub(crate) async fn list_container_stats(
    cri: &Cri,
    request: cri::ListContainerStatsRequest,
) -> Result<cri::ListContainerStatsResponse, Error> {
    let filter = filter::Containers::of_stats(request.filter.as_ref());
    let mut containers = cri.parts.node.containers();
    containers.retain(|container| filter.admits(container));
    let cri = cri.clone();
    let read = move || {
        stats::forget_others(&cri);
        containers.iter().map(|container| stats::container_stats(&cri, container)).collect()
    };
    Ok(cri::ListContainerStatsResponse { stats: on_thread("statistics", read).await? })
}
