//! UpdatePodSandboxResources: the kubelet has resized the pod's cgroup, or is about to.

use berth_pod::record::PodResources;
use berth_proto::cri::v1 as cri;

use super::required;
use crate::admit::admit_resources;
use crate::{Cri, Error};

pub(crate) async fn update_pod_sandbox_resources(
    cri: &Cri,
    request: cri::UpdatePodSandboxResourcesRequest,
) -> Result<cri::UpdatePodSandboxResourcesResponse, Error> {
    let id = required("pod_sandbox_id", &request.pod_sandbox_id)?;
    let admit = |at: &str, given: Option<&cri::LinuxContainerResources>| {
        given.map(|given| admit_resources(at, given)).transpose()
    };
    let asked = PodResources {
        overhead: admit("overhead", request.overhead.as_ref())?,
        containers: admit("resources", request.resources.as_ref())?,
    };
    cri.parts.node.update_sandbox_resources(id, asked).await?;
    Ok(cri::UpdatePodSandboxResourcesResponse {})
}
