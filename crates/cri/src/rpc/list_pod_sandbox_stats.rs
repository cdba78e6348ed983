//! ListPodSandboxStats.

use std::sync::Arc;

use berth_lifecycle::PodView;
use berth_proto::cri::v1 as cri;

use super::on_thread;
use crate::{Cri, Error, filter, stats};

pub(crate) async fn list_pod_sandbox_stats(
    cri: &Cri,
    request: cri::ListPodSandboxStatsRequest,
) -> Result<cri::ListPodSandboxStatsResponse, Error> {
    let pods = admitted(cri, request.filter.as_ref());
    Ok(cri::ListPodSandboxStatsResponse { stats: read(cri.clone(), pods).await? })
}

/// The pods that a filter admits.
pub(super) fn admitted(
    cri: &Cri,
    filter: Option<&cri::PodSandboxStatsFilter>,
) -> Vec<Arc<PodView>> {
    let filter = filter::Pods::of_stats(filter);
    let mut pods = cri.parts.node.sandboxes();
    pods.retain(|pod| filter.admits(pod));
    pods
}

/// The figures of these pods.
pub(super) async fn read(
    cri: Cri,
    pods: Vec<Arc<PodView>>,
) -> Result<Vec<cri::PodSandboxStats>, Error> {
    let containers: Vec<_> = pods.iter().flat_map(|pod| pod.containers.clone()).collect();
    let guests = cri.parts.node.guest_usage(&containers).await;
    let read = move || {
        stats::forget_others(&cri);
        stats::pod_stats(&cri, &pods, &guests)
    };
    on_thread("statistics", read).await
}
