//! ListContainerStats.

use std::sync::Arc;

use berth_lifecycle::ContainerView;
use berth_proto::cri::v1 as cri;

use super::on_thread;
use crate::{Cri, Error, filter, stats};

pub(crate) async fn list_container_stats(
    cri: &Cri,
    request: cri::ListContainerStatsRequest,
) -> Result<cri::ListContainerStatsResponse, Error> {
    let containers = admitted(cri, request.filter.as_ref());
    Ok(cri::ListContainerStatsResponse { stats: read(cri.clone(), containers).await? })
}

/// The containers that a filter admits.
pub(super) fn admitted(
    cri: &Cri,
    filter: Option<&cri::ContainerStatsFilter>,
) -> Vec<Arc<ContainerView>> {
    let filter = filter::Containers::of_stats(filter);
    let mut containers = cri.parts.node.containers();
    containers.retain(|container| filter.admits(container));
    containers
}

/// The figures of these containers.
pub(super) async fn read(
    cri: Cri,
    containers: Vec<Arc<ContainerView>>,
) -> Result<Vec<cri::ContainerStats>, Error> {
    let guests = cri.parts.node.guest_usage(&containers).await;
    let read = move || {
        stats::forget_others(&cri);
        let one = |container: &_| stats::container_stats(&cri, container, &guests);
        containers.iter().map(|container| one(container)).collect()
    };
    on_thread("statistics", read).await
}
