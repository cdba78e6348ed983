//! StreamImages: ListImages in messages of bounded size.

use berth_proto::cri::v1 as cri;

use super::list_images;
use crate::messages::{self, Messages};
use crate::{Cri, Error, describe};

pub(crate) fn stream_images(
    cri: &Cri,
    request: cri::StreamImagesRequest,
) -> Result<Messages<cri::StreamImagesResponse>, Error> {
    let images = list_images::admitted(cri, request.filter)?;
    let entries = images.into_iter().map(|image| describe::image(&image));
    Ok(messages::of(entries, |images| cri::StreamImagesResponse { images }))
}
