//! Version.

use berth_proto::cri::v1::{VersionRequest, VersionResponse};

use crate::Cri;

/// Never changes: it is the prefix of container ids in every pod's status.
pub(crate) const RUNTIME_NAME: &str = "berth";

pub(crate) fn version(cri: &Cri, _request: &VersionRequest) -> VersionResponse {
    VersionResponse {
        // The kubelet's own API version, which has been 0.1.0 since there is one.
        version: "0.1.0".to_owned(),
        runtime_name: RUNTIME_NAME.to_owned(),
        runtime_version: cri.parts.version.to_owned(),
        runtime_api_version: "v1".to_owned(),
    }
}
