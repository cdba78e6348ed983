//! UpdatePodSandboxResources: not there yet; the kubelet wants exactly Unimplemented then.

use berth_proto::cri::v1::UpdatePodSandboxResourcesRequest;

use crate::{Cri, Error};

pub(crate) fn update_pod_sandbox_resources<T>(
    _cri: &Cri,
    _request: &UpdatePodSandboxResourcesRequest,
) -> Result<T, Error> {
    Err(Error::Unimplemented("UpdatePodSandboxResources"))
}
