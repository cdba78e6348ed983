//! ContainerStatus.

use std::collections::BTreeMap;

use berth_proto::cri::v1 as cri;
use serde_json::Value;

use super::required;
use crate::{Cri, Error, describe};

pub(crate) async fn container_status(
    cri: &Cri,
    request: cri::ContainerStatusRequest,
) -> Result<cri::ContainerStatusResponse, Error> {
    let node = &cri.parts.node;
    let container = node.container(required("container_id", &request.container_id)?)?;
    let mut info = BTreeMap::new();
    if request.verbose {
        // Status is answered even when the bundle that has the spec is gone.
        let spec = node.runtime_spec(container.id().as_str()).await.unwrap_or_default();
        let spec = serde_json::from_slice(&spec).unwrap_or(Value::Null);
        let pod = node.sandbox(container.sandbox.as_str());
        let runtime_type = pod.map(|pod| cri.runtime_type(&pod)).unwrap_or_default();
        info = describe::container_info(&container, &spec, &runtime_type);
    }
    Ok(cri::ContainerStatusResponse { status: Some(describe::container_status(&container)), info })
}
