//! StreamPodSandboxes: not there yet; ListPodSandbox has no limit of size.

use berth_proto::cri::v1::StreamPodSandboxesRequest;

use crate::{Cri, Error};

pub(crate) fn stream_pod_sandboxes<T>(
    _cri: &Cri,
    _request: &StreamPodSandboxesRequest,
) -> Result<T, Error> {
    Err(Error::Unimplemented("StreamPodSandboxes"))
}
