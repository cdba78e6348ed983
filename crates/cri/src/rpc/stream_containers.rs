//! StreamContainers: ListContainers in messages of bounded size.

use berth_proto::cri::v1 as cri;

use super::list_containers;
use crate::messages::{self, Messages};
use crate::{Cri, describe};

pub(crate) fn stream_containers(
    cri: &Cri,
    request: &cri::StreamContainersRequest,
) -> Messages<cri::StreamContainersResponse> {
    let containers = list_containers::admitted(cri, request.filter.as_ref());
    let entries = containers.into_iter().map(|container| describe::container_entry(&container));
    messages::of(entries, |containers| cri::StreamContainersResponse { containers })
}
