//! StreamImages: not there yet; ListImages has no limit of size.

use berth_proto::cri::v1::StreamImagesRequest;

use crate::{Cri, Error};

pub(crate) fn stream_images<T>(_cri: &Cri, _request: &StreamImagesRequest) -> Result<T, Error> {
    Err(Error::Unimplemented("StreamImages"))
}
