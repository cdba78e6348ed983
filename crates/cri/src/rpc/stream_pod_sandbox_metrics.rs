//! StreamPodSandboxMetrics: ListPodSandboxMetrics in messages of bounded size.

use berth_proto::cri::v1 as cri;

use super::list_pod_sandbox_metrics;
use crate::Cri;
use crate::messages::{self, Messages};

pub(crate) fn stream_pod_sandbox_metrics(
    cri: &Cri,
    _request: &cri::StreamPodSandboxMetricsRequest,
) -> Messages<cri::StreamPodSandboxMetricsResponse> {
    let pods = cri.parts.node.sandboxes();
    let cri = cri.clone();
    let read = move |part| list_pod_sandbox_metrics::read(cri.clone(), part);
    messages::of_read(pods, read, |pod_sandbox_metrics| cri::StreamPodSandboxMetricsResponse {
        pod_sandbox_metrics,
    })
}
