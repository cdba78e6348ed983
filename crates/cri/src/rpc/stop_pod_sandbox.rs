//! StopPodSandbox: an unknown id is success, since the kubelet stops what it does not know.

use berth_proto::cri::v1 as cri;

use super::required;
use crate::{Cri, Error};

pub(crate) async fn stop_pod_sandbox(
    cri: &Cri,
    request: cri::StopPodSandboxRequest,
) -> Result<cri::StopPodSandboxResponse, Error> {
    cri.parts.node.stop_sandbox(required("pod_sandbox_id", &request.pod_sandbox_id)?).await?;
    Ok(cri::StopPodSandboxResponse {})
}
