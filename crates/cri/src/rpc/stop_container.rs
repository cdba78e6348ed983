//! StopContainer: a grace of 0 kills at once; an unknown id is success.

use std::time::Duration;

use berth_proto::cri::v1 as cri;

use super::required;
use crate::{Cri, Error};

pub(crate) async fn stop_container(
    cri: &Cri,
    request: cri::StopContainerRequest,
) -> Result<cri::StopContainerResponse, Error> {
    let id = required("container_id", &request.container_id)?;
    // The kubelet's minimum grace of a pod that must go at once can come out below 0.
    let grace = Duration::from_secs(request.timeout.max(0).unsigned_abs());
    cri.parts.node.stop_container(id, grace).await?;
    Ok(cri::StopContainerResponse {})
}
