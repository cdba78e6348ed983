//! ListImages.

use berth_image::Image;
use berth_proto::cri::v1 as cri;

use crate::{Cri, Error, describe};

pub(crate) async fn list_images(
    cri: &Cri,
    request: cri::ListImagesRequest,
) -> Result<cri::ListImagesResponse, Error> {
    let images = admitted(cri, request.filter)?;
    Ok(cri::ListImagesResponse { images: images.iter().map(describe::image).collect() })
}

/// The images that a filter admits.
pub(super) fn admitted(cri: &Cri, filter: Option<cri::ImageFilter>) -> Result<Vec<Image>, Error> {
    let wanted = filter.and_then(|filter| filter.image).unwrap_or_default().image;
    Ok(match wanted.as_str() {
        "" => cri.parts.images.list(),
        reference => cri.parts.images.status(reference)?.into_iter().collect(),
    })
}
