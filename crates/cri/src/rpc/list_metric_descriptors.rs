//! ListMetricDescriptors.

use berth_proto::cri::v1 as cri;

use crate::metrics;

pub(crate) fn list_metric_descriptors(
    _request: &cri::ListMetricDescriptorsRequest,
) -> cri::ListMetricDescriptorsResponse {
    cri::ListMetricDescriptorsResponse { descriptors: metrics::descriptors() }
}
