//! ListPodSandboxStats.

use berth_proto::cri::v1 as cri;

use super::on_thread;
use crate::{Cri, Error, filter, stats};

pub(crate) async fn list_pod_sandbox_stats(
    cri: &Cri,
    request: cri::ListPodSandboxStatsRequest,
) -> Result<cri::ListPodSandboxStatsResponse, Error> {
    let filter = filter::Pods::of_stats(request.filter.as_ref());
    let mut pods = cri.parts.node.sandboxes();
    pods.retain(|pod| filter.admits(pod));
    let containers: Vec<_> = pods.iter().flat_map(|pod| pod.containers.clone()).collect();
    let guests = cri.parts.node.guest_usage(&containers).await;
    let cri = cri.clone();
    let read = move || {
        stats::forget_others(&cri);
        stats::pod_stats(&cri, &pods, &guests)
    };
    Ok(cri::ListPodSandboxStatsResponse { stats: on_thread("statistics", read).await? })
}
