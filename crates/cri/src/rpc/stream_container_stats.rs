//! StreamContainerStats: not there yet.

use berth_proto::cri::v1::StreamContainerStatsRequest;

use crate::{Cri, Error};

pub(crate) fn stream_container_stats<T>(
    _cri: &Cri,
    _request: &StreamContainerStatsRequest,
) -> Result<T, Error> {
    Err(Error::Unimplemented("StreamContainerStats"))
}
