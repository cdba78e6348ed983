//! GetContainerEvents: not there yet; the kubelet lists instead.

use berth_proto::cri::v1::GetEventsRequest;

use crate::{Cri, Error};

pub(crate) fn get_container_events<T>(_cri: &Cri, _request: &GetEventsRequest) -> Result<T, Error> {
    Err(Error::Unimplemented("GetContainerEvents"))
}
