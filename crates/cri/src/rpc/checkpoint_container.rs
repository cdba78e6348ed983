//! CheckpointContainer: not there yet.

use berth_proto::cri::v1::CheckpointContainerRequest;

use crate::{Cri, Error};

pub(crate) fn checkpoint_container<T>(
    _cri: &Cri,
    _request: &CheckpointContainerRequest,
) -> Result<T, Error> {
    Err(Error::Unimplemented("CheckpointContainer"))
}
