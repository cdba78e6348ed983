//! UpdateRuntimeConfig: the node's pod CIDR, for a network configuration made from a template.

use std::sync::Arc;

use berth_proto::cri::v1 as cri;

use crate::{Cri, Error};

pub(crate) async fn update_runtime_config(
    cri: &Cri,
    request: cri::UpdateRuntimeConfigRequest,
) -> Result<cri::UpdateRuntimeConfigResponse, Error> {
    let network = request.runtime_config.and_then(|config| config.network_config);
    let cidr = network.map(|network| network.pod_cidr).unwrap_or_default();
    // The kubelet sends an empty one while the node has none.
    if !cidr.is_empty() {
        let parts = Arc::clone(&cri.parts);
        let sent = cidr.clone();
        tokio::task::spawn_blocking(move || (parts.set_pod_cidr)(&sent))
            .await
            .map_err(|_| Error::Dropped("the pod CIDR"))?
            .map_err(|why| Error::PodCidr { cidr, why })?;
    }
    Ok(cri::UpdateRuntimeConfigResponse {})
}
