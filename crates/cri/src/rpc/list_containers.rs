//! ListContainers: the kubelet asks every second.

use berth_proto::cri::v1 as cri;

use crate::{Cri, describe, filter};

pub(crate) fn list_containers(
    cri: &Cri,
    request: &cri::ListContainersRequest,
) -> cri::ListContainersResponse {
    let filter = filter::Containers::new(request.filter.as_ref());
    let all = cri.parts.node.containers();
    let fitting = all.iter().filter(|container| filter.admits(container));
    cri::ListContainersResponse {
        containers: fitting.map(|container| describe::container_entry(container)).collect(),
    }
}
