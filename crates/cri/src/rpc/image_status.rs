//! ImageStatus: an absent image is an answer without an image, not an error.

use std::collections::BTreeMap;

use berth_proto::cri::v1 as cri;
use serde_json::Value;

use super::image_name;
use crate::{Cri, Error, describe};

pub(crate) async fn image_status(
    cri: &Cri,
    request: cri::ImageStatusRequest,
) -> Result<cri::ImageStatusResponse, Error> {
    let name = image_name(request.image.as_ref())?;
    let Some(image) = cri.parts.images.status(name)? else {
        return Ok(cri::ImageStatusResponse::default());
    };
    let mut info = BTreeMap::new();
    if request.verbose {
        let config = cri.parts.images.config(&image.id).await.unwrap_or_default();
        info = describe::image_info(&serde_json::from_slice(&config).unwrap_or(Value::Null));
    }
    Ok(cri::ImageStatusResponse { image: Some(describe::image(&image)), info })
}
