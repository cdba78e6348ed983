//! ListPodSandboxMetrics: not there yet.

use berth_proto::cri::v1::ListPodSandboxMetricsRequest;

use crate::{Cri, Error};

pub(crate) fn list_pod_sandbox_metrics<T>(
    _cri: &Cri,
    _request: &ListPodSandboxMetricsRequest,
) -> Result<T, Error> {
    Err(Error::Unimplemented("ListPodSandboxMetrics"))
}
