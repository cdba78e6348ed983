//! PortForward: not there yet.

use berth_proto::cri::v1::PortForwardRequest;

use crate::{Cri, Error};

pub(crate) fn port_forward<T>(_cri: &Cri, _request: &PortForwardRequest) -> Result<T, Error> {
    Err(Error::Unimplemented("PortForward"))
}
