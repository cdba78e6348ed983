//! RemoveContainer: kills it if it runs; an unknown id is success.

use berth_proto::cri::v1 as cri;

use super::required;
use crate::{Cri, Error};

pub(crate) async fn remove_container(
    cri: &Cri,
    request: cri::RemoveContainerRequest,
) -> Result<cri::RemoveContainerResponse, Error> {
    cri.parts.node.remove_container(required("container_id", &request.container_id)?).await?;
    Ok(cri::RemoveContainerResponse {})
}
