//! CreateContainer.

use berth_lifecycle::PodView;
use berth_pod::spec::{Admitted, ContainerSpec};
use berth_proto::cri::v1 as cri;

use super::required;
use crate::{Cri, Error, admit, restore};

pub(crate) async fn create_container(
    cri: &Cri,
    mut request: cri::CreateContainerRequest,
) -> Result<cri::CreateContainerResponse, Error> {
    // The pod as it was run, not the copy in this request: the two could differ.
    let pod = cri.parts.node.sandbox(required("pod_sandbox_id", &request.pod_sandbox_id)?)?;
    let admitted = admitted(cri, &pod, &mut request).await?;
    let id = cri.parts.node.create_container(pod.id().as_str(), admitted).await?;
    Ok(cri::CreateContainerResponse { container_id: id.to_string() })
}

async fn admitted(
    cri: &Cri,
    pod: &PodView,
    request: &mut cri::CreateContainerRequest,
) -> Result<Admitted<ContainerSpec>, Error> {
    let rules = cri.rules(cri.parts.node.handler_of(pod).as_deref());
    let Some(config) = &mut request.config else {
        return Ok(admit::admit_container(None, pod.spec(), &rules)?);
    };
    // Of what was asked for: the same request is the same container, whatever the archive says by now.
    let digest = admit::container_digest(config);
    if let Some(made) = restore::made(pod, config, &digest) {
        return Ok(made);
    }
    let checkpoint = restore::find(cri, pod, config).await?;
    let mut admitted = admit::admit_container(Some(config), pod.spec(), &rules)?;
    admitted.spec.checkpoint = checkpoint;
    admitted.digest = digest;
    Ok(admitted)
}
