//! CreateContainer.

use berth_proto::cri::v1 as cri;

use super::required;
use crate::{Cri, Error, admit};

pub(crate) async fn create_container(
    cri: &Cri,
    request: cri::CreateContainerRequest,
) -> Result<cri::CreateContainerResponse, Error> {
    // The pod as it was run, not the copy in this request: the two could differ.
    let pod = cri.parts.node.sandbox(required("pod_sandbox_id", &request.pod_sandbox_id)?)?;
    let rules = cri.rules(cri.parts.node.handler_of(&pod).as_deref());
    let admitted = admit::admit_container(request.config.as_ref(), pod.spec(), &rules)?;
    let id = cri.parts.node.create_container(pod.id().as_str(), admitted).await?;
    Ok(cri::CreateContainerResponse { container_id: id.to_string() })
}
