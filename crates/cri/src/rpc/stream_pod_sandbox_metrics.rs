//! StreamPodSandboxMetrics: not there yet.

use berth_proto::cri::v1::StreamPodSandboxMetricsRequest;

use crate::{Cri, Error};

pub(crate) fn stream_pod_sandbox_metrics<T>(
    _cri: &Cri,
    _request: &StreamPodSandboxMetricsRequest,
) -> Result<T, Error> {
    Err(Error::Unimplemented("StreamPodSandboxMetrics"))
}
