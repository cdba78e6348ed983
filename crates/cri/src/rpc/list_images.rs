//! ListImages.

use berth_proto::cri::v1 as cri;

use crate::{Cri, Error, describe};

pub(crate) async fn list_images(
    cri: &Cri,
    request: cri::ListImagesRequest,
) -> Result<cri::ListImagesResponse, Error> {
    let wanted = request.filter.and_then(|filter| filter.image).unwrap_or_default().image;
    let images = match wanted.as_str() {
        "" => cri.parts.images.list(),
        reference => cri.parts.images.status(reference)?.into_iter().collect(),
    };
    Ok(cri::ListImagesResponse { images: images.iter().map(describe::image).collect() })
}
