//! ListMetricDescriptors: not there yet.

use berth_proto::cri::v1::ListMetricDescriptorsRequest;

use crate::{Cri, Error};

pub(crate) fn list_metric_descriptors<T>(
    _cri: &Cri,
    _request: &ListMetricDescriptorsRequest,
) -> Result<T, Error> {
    Err(Error::Unimplemented("ListMetricDescriptors"))
}
