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
    let guests = cri.parts.node.guest_usage(&containers).await;
    let cri = cri.clone();
    let read = move || {
        stats::forget_others(&cri);
        let one = |container: &_| stats::container_stats(&cri, container, &guests);
        containers.iter().map(|container| one(container)).collect()
    };
    Ok(cri::ListContainerStatsResponse { stats: on_thread("statistics", read).await? })
}
