//! ListPodSandbox: the kubelet asks every second.

use berth_proto::cri::v1 as cri;

use crate::{Cri, describe, filter};

pub(crate) fn list_pod_sandbox(
    cri: &Cri,
    request: &cri::ListPodSandboxRequest,
) -> cri::ListPodSandboxResponse {
    let filter = filter::Pods::new(request.filter.as_ref());
    let pods = cri.parts.node.sandboxes();
    let items = pods.iter().filter(|pod| filter.admits(pod)).map(|pod| describe::pod_entry(pod));
    cri::ListPodSandboxResponse { items: items.collect() }
}
