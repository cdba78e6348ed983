//! PortForward: where a client finds the ports of a pod.

use berth_proto::cri::v1 as cri;
use berth_streaming::PortForward;

use super::required;
use crate::{Cri, Error};

pub(crate) fn port_forward(
    cri: &Cri,
    request: &cri::PortForwardRequest,
) -> Result<cri::PortForwardResponse, Error> {
    let id = required("pod_sandbox_id", &request.pod_sandbox_id)?;
    let port = |port: &i32| match u16::try_from(*port) {
        Ok(port @ 1..) => Ok(port),
        _ => Err(Error::Port(*port)),
    };
    let ports = request.port.iter().map(port).collect::<Result<_, _>>()?;
    let pod = cri.parts.node.ready_sandbox(id)?.id().to_string();
    let url = cri.streaming()?.port_forward(PortForward { pod, ports })?;
    Ok(cri::PortForwardResponse { url })
}
