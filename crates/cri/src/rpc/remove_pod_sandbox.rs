//! RemovePodSandbox: an unknown id is success.

use berth_proto::cri::v1 as cri;

use super::required;
use crate::{Cri, Error};

pub(crate) async fn remove_pod_sandbox(
    cri: &Cri,
    request: cri::RemovePodSandboxRequest,
) -> Result<cri::RemovePodSandboxResponse, Error> {
    let id = required("pod_sandbox_id", &request.pod_sandbox_id)?;
    cri.parts.node.remove_sandbox(id).await?;
    Ok(cri::RemovePodSandboxResponse {})
}
