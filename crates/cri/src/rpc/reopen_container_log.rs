//! ReopenContainerLog: after the kubelet has renamed the file.

use berth_proto::cri::v1 as cri;

use super::required;
use crate::{Cri, Error};

pub(crate) async fn reopen_container_log(
    cri: &Cri,
    request: cri::ReopenContainerLogRequest,
) -> Result<cri::ReopenContainerLogResponse, Error> {
    cri.parts.node.reopen_log(required("container_id", &request.container_id)?).await?;
    Ok(cri::ReopenContainerLogResponse {})
}
