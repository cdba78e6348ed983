//! PodSandboxStats.

use berth_proto::cri::v1 as cri;

use super::{on_thread, required};
use crate::{Cri, Error, stats};

pub(crate) async fn pod_sandbox_stats(
    cri: &Cri,
    request: cri::PodSandboxStatsRequest,
) -> Result<cri::PodSandboxStatsResponse, Error> {
    let id = required("pod_sandbox_id", &request.pod_sandbox_id)?;
    let pods = [cri.parts.node.sandbox(id)?];
    let guests = cri.parts.node.guest_usage(&pods[0].containers).await;
    let cri = cri.clone();
    let mut read = on_thread("statistics", move || stats::pod_stats(&cri, &pods, &guests)).await?;
    Ok(cri::PodSandboxStatsResponse { stats: read.pop() })
}
