//! ListPodSandboxMetrics.

use std::sync::Arc;

use berth_lifecycle::PodView;
use berth_proto::cri::v1 as cri;

use super::on_thread;
use crate::{Cri, Error, metrics};

pub(crate) async fn list_pod_sandbox_metrics(
    cri: &Cri,
    _request: cri::ListPodSandboxMetricsRequest,
) -> Result<cri::ListPodSandboxMetricsResponse, Error> {
    let pods = cri.parts.node.sandboxes();
    Ok(cri::ListPodSandboxMetricsResponse { pod_metrics: read(cri.clone(), pods).await? })
}

/// The series of these pods.
pub(super) async fn read(
    cri: Cri,
    pods: Vec<Arc<PodView>>,
) -> Result<Vec<cri::PodSandboxMetrics>, Error> {
    let containers: Vec<_> = pods.iter().flat_map(|pod| pod.containers.clone()).collect();
    let guests = cri.parts.node.guest_usage(&containers).await;
    on_thread("metrics", move || metrics::pod_metrics(&cri, &pods, &guests)).await
}
