//! CreateContainer.

use berth_proto::cri::v1 as cri;

use super::required;
use crate::{Cri, Error, admit, restore};

pub(crate) async fn create_container(
    cri: &Cri,
    mut request: cri::CreateContainerRequest,
) -> Result<cri::CreateContainerResponse, Error> {
    // The pod as it was run, not the copy in this request: the two could differ.
    let pod = cri.parts.node.sandbox(required("pod_sandbox_id", &request.pod_sandbox_id)?)?;
    let rules = cri.rules(cri.parts.node.handler_of(&pod).as_deref());
    // Of what was asked for: the same request is the same container, whatever the archive says by now.
    let digest = request.config.as_ref().map(admit::container_digest);
    let checkpoint = match &mut request.config {
        Some(config) => restore::find(cri, &pod, config).await?,
        None => None,
    };
    let mut admitted = admit::admit_container(request.config.as_ref(), pod.spec(), &rules)?;
    admitted.spec.checkpoint = checkpoint;
    admitted.digest = digest.unwrap_or(admitted.digest);
    let id = cri.parts.node.create_container(pod.id().as_str(), admitted).await?;
    Ok(cri::CreateContainerResponse { container_id: id.to_string() })
}
