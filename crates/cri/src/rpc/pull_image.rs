//! PullImage: dropped when the caller leaves or its deadline passes; nothing stays then.

use berth_proto::cri::v1 as cri;

use super::image_name;
use crate::{Cri, Error};

pub(crate) async fn pull_image(
    cri: &Cri,
    request: cri::PullImageRequest,
) -> Result<cri::PullImageResponse, Error> {
    let _name = image_name(request.image.as_ref())?;
    let _ = cri;
    Err(Error::Unimplemented("PullImage"))
}
