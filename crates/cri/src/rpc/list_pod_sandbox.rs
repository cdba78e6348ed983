//! ListPodSandbox: the kubelet asks every second.

use std::sync::Arc;

use berth_lifecycle::PodView;
use berth_proto::cri::v1 as cri;

use crate::{Cri, describe, filter};

pub(crate) fn list_pod_sandbox(
    cri: &Cri,
    request: &cri::ListPodSandboxRequest,
) -> cri::ListPodSandboxResponse {
    let pods = admitted(cri, request.filter.as_ref());
    cri::ListPodSandboxResponse { items: pods.iter().map(|pod| describe::pod_entry(pod)).collect() }
}

/// The pods that a filter admits.
pub(super) fn admitted(cri: &Cri, filter: Option<&cri::PodSandboxFilter>) -> Vec<Arc<PodView>> {
    let filter = filter::Pods::new(filter);
    let mut pods = cri.parts.node.sandboxes();
    pods.retain(|pod| filter.admits(pod));
    pods
}
