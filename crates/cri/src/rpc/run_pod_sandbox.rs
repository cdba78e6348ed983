//! RunPodSandbox.

use berth_proto::cri::v1 as cri;

use crate::{Cri, Error, admit};

pub(crate) async fn run_pod_sandbox(
    cri: &Cri,
    request: cri::RunPodSandboxRequest,
) -> Result<cri::RunPodSandboxResponse, Error> {
    let handler = &request.runtime_handler;
    let offered = cri.parts.node.handlers();
    let known = offered.get(handler).and_then(|offer| offer.as_ref().ok());
    let rules = cri.rules(known.map(AsRef::as_ref));
    let admitted = admit::admit_sandbox(request.config.as_ref(), handler, &rules)?;
    let id = cri.parts.node.run_sandbox(admitted).await?;
    Ok(cri::RunPodSandboxResponse { pod_sandbox_id: id.to_string() })
}
