//! StartContainer: success if it runs already.

use berth_proto::cri::v1 as cri;

use super::required;
use crate::{Cri, Error};

pub(crate) async fn start_container(
    cri: &Cri,
    request: cri::StartContainerRequest,
) -> Result<cri::StartContainerResponse, Error> {
    cri.parts.node.start_container(required("container_id", &request.container_id)?).await?;
    Ok(cri::StartContainerResponse {})
}
