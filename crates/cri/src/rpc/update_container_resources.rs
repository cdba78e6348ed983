//! UpdateContainerResources: also between create and start, where the CPU manager uses it.

use berth_proto::cri::v1 as cri;

use super::required;
use crate::admit::{Refusal, admit_resources};
use crate::{Cri, Error};

pub(crate) async fn update_container_resources(
    cri: &Cri,
    request: cri::UpdateContainerResourcesRequest,
) -> Result<cri::UpdateContainerResourcesResponse, Error> {
    let id = required("container_id", &request.container_id)?;
    let given = request
        .linux
        .as_ref()
        .ok_or_else(|| Refusal::missing("linux", "send the limits to set on this Linux node"))?;
    cri.parts.node.update_resources(id, admit_resources("linux", given)?).await?;
    Ok(cri::UpdateContainerResourcesResponse {})
}
