//! PodSandboxStatus, with its containers' statuses beside it.

use std::collections::BTreeMap;

use berth_proto::cri::v1 as cri;

use super::required;
use crate::{Cri, Error, describe};

pub(crate) fn pod_sandbox_status(
    cri: &Cri,
    request: &cri::PodSandboxStatusRequest,
) -> Result<cri::PodSandboxStatusResponse, Error> {
    let pod = cri.parts.node.sandbox(required("pod_sandbox_id", &request.pod_sandbox_id)?)?;
    let info = match request.verbose {
        true => describe::pod_info(&pod, &cri.runtime_type(&pod)),
        false => BTreeMap::new(),
    };
    Ok(cri::PodSandboxStatusResponse {
        status: Some(describe::pod_status(&pod)),
        info,
        containers_statuses: pod.containers.iter().map(|c| describe::container_status(c)).collect(),
        timestamp: describe::now(),
    })
}
