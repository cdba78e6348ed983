//! RemoveImage: by any of its names, all of them go; an absent image is success.

use berth_proto::cri::v1 as cri;

use super::image_name;
use crate::{Cri, Error};

pub(crate) async fn remove_image(
    cri: &Cri,
    request: cri::RemoveImageRequest,
) -> Result<cri::RemoveImageResponse, Error> {
    cri.parts.images.remove(image_name(request.image.as_ref())?).await?;
    Ok(cri::RemoveImageResponse {})
}
