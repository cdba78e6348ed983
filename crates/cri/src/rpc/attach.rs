//! Attach: streams to and from a container's first process; not there yet.

use berth_proto::cri::v1::AttachRequest;

use crate::{Cri, Error};

pub(crate) fn attach<T>(_cri: &Cri, _request: &AttachRequest) -> Result<T, Error> {
    Err(Error::Unimplemented("Attach"))
}
