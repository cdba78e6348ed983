//! Attach: where a client finds the streams of a container's first process.

use berth_proto::cri::v1 as cri;
use berth_streaming::Attach;

use super::required;
use crate::{Cri, Error};

pub(crate) fn attach(
    cri: &Cri,
    request: &cri::AttachRequest,
) -> Result<cri::AttachResponse, Error> {
    let id = required("container_id", &request.container_id)?;
    let container = cri.parts.node.attachable_container(id, request.tty, request.stdin)?;
    let url = cri.streaming()?.attach(Attach {
        container: container.to_string(),
        tty: request.tty,
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
    })?;
    Ok(cri::AttachResponse { url })
}
