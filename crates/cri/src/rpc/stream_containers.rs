//! StreamContainers: not there yet; ListContainers has no limit of size.

use berth_proto::cri::v1::StreamContainersRequest;

use crate::{Cri, Error};

pub(crate) fn stream_containers<T>(
    _cri: &Cri,
    _request: &StreamContainersRequest,
) -> Result<T, Error> {
    Err(Error::Unimplemented("StreamContainers"))
}
