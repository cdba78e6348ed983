//! StreamPodSandboxStats: not there yet.

use berth_proto::cri::v1::StreamPodSandboxStatsRequest;

use crate::{Cri, Error};

pub(crate) fn stream_pod_sandbox_stats<T>(
    _cri: &Cri,
    _request: &StreamPodSandboxStatsRequest,
) -> Result<T, Error> {
    Err(Error::Unimplemented("StreamPodSandboxStats"))
}
