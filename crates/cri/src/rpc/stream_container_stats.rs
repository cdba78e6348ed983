//! StreamContainerStats: ListContainerStats in messages of bounded size.

use berth_proto::cri::v1 as cri;

use super::list_container_stats;
use crate::Cri;
use crate::messages::{self, Messages};

pub(crate) fn stream_container_stats(
    cri: &Cri,
    request: &cri::StreamContainerStatsRequest,
) -> Messages<cri::StreamContainerStatsResponse> {
    let containers = list_container_stats::admitted(cri, request.filter.as_ref());
    let cri = cri.clone();
    let read = move |part| list_container_stats::read(cri.clone(), part);
    messages::of_read(containers, read, |container_stats| cri::StreamContainerStatsResponse {
        container_stats,
    })
}
