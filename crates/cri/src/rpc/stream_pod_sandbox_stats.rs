//! StreamPodSandboxStats: ListPodSandboxStats in messages of bounded size.

use berth_proto::cri::v1 as cri;

use super::list_pod_sandbox_stats;
use crate::Cri;
use crate::messages::{self, Messages};

pub(crate) fn stream_pod_sandbox_stats(
    cri: &Cri,
    request: &cri::StreamPodSandboxStatsRequest,
) -> Messages<cri::StreamPodSandboxStatsResponse> {
    let pods = list_pod_sandbox_stats::admitted(cri, request.filter.as_ref());
    let cri = cri.clone();
    let read = move |part| list_pod_sandbox_stats::read(cri.clone(), part);
    messages::of_read(pods, read, |pod_sandbox_stats| cri::StreamPodSandboxStatsResponse {
        pod_sandbox_stats,
    })
}
