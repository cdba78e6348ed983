//! StreamPodSandboxes: ListPodSandbox in messages of bounded size.

use berth_proto::cri::v1 as cri;

use super::list_pod_sandbox;
use crate::messages::{self, Messages};
use crate::{Cri, describe};

pub(crate) fn stream_pod_sandboxes(
    cri: &Cri,
    request: &cri::StreamPodSandboxesRequest,
) -> Messages<cri::StreamPodSandboxesResponse> {
    let pods = list_pod_sandbox::admitted(cri, request.filter.as_ref());
    let entries = pods.into_iter().map(|pod| describe::pod_entry(&pod));
    messages::of(entries, |pod_sandboxes| cri::StreamPodSandboxesResponse { pod_sandboxes })
}
