//! ListContainers: the kubelet asks every second.

use std::sync::Arc;

use berth_lifecycle::ContainerView;
use berth_proto::cri::v1 as cri;

use crate::{Cri, describe, filter};

pub(crate) fn list_containers(
    cri: &Cri,
    request: &cri::ListContainersRequest,
) -> cri::ListContainersResponse {
    let containers = admitted(cri, request.filter.as_ref());
    cri::ListContainersResponse {
        containers: containers.iter().map(|one| describe::container_entry(one)).collect(),
    }
}

/// The containers that a filter admits.
pub(super) fn admitted(
    cri: &Cri,
    filter: Option<&cri::ContainerFilter>,
) -> Vec<Arc<ContainerView>> {
    let filter = filter::Containers::new(filter);
    let mut containers = cri.parts.node.containers();
    containers.retain(|container| filter.admits(container));
    containers
}
