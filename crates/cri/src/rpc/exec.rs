//! Exec: streams to and from a new process; not there yet.

use berth_proto::cri::v1::ExecRequest;

use crate::{Cri, Error};

pub(crate) fn exec<T>(_cri: &Cri, _request: &ExecRequest) -> Result<T, Error> {
    Err(Error::Unimplemented("Exec"))
}
