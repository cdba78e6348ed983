//! CheckpointContainer: a running container's state as one archive.

use std::path::PathBuf;
use std::time::Duration;

use berth_proto::cri::v1 as cri;

use super::required;
use crate::admit::Refusal;
use crate::{Cri, Error};

pub(crate) async fn checkpoint_container(
    cri: &Cri,
    request: cri::CheckpointContainerRequest,
) -> Result<cri::CheckpointContainerResponse, Error> {
    let id = required("container_id", &request.container_id)?;
    let timeout = match request.timeout {
        0 => None,
        seconds => Some(Duration::from_secs(
            u64::try_from(seconds)
                .map_err(|_| Error::Negative { field: "timeout", value: seconds })?,
        )),
    };
    // The container first: the kubelet tells one that is not there from all else.
    cri.parts.node.container(id)?;
    if request.location.is_empty() {
        return Err(Refusal::missing("location", "give the file to write").into());
    }
    let location = PathBuf::from(&request.location);
    if !location.is_absolute() {
        return Err(Error::Relative { field: "location", path: request.location });
    }
    cri.parts.node.checkpoint(id, location, timeout).await?;
    Ok(cri::CheckpointContainerResponse {})
}
