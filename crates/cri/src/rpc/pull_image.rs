//! PullImage: dropped when the caller leaves or its deadline passes; nothing stays then.

use berth_image::Credentials;
use berth_proto::cri::v1 as cri;

use super::image_name;
use crate::admit::Refusal;
use crate::{Cri, Error};

pub(crate) async fn pull_image(
    cri: &Cri,
    request: cri::PullImageRequest,
) -> Result<cri::PullImageResponse, Error> {
    let name = image_name(request.image.as_ref())?;
    let handler = request.image.as_ref().map(|image| &*image.runtime_handler).unwrap_or_default();
    // Layers are the same for every handler, so one image serves them all.
    if !handler.is_empty() && cri.parts.node.handlers().get(handler).is_none() {
        let advice = "name a handler of this node's configuration, or leave it empty";
        return Err(Refusal::new("image.runtime_handler", handler, advice).into());
    }
    let credentials = request.auth.map(credentials);
    let id = cri.parts.images.pull(name, credentials).await?;
    // The same identity that lists, status and containers answer.
    Ok(cri::PullImageResponse { image_ref: id.to_string() })
}

fn credentials(auth: cri::AuthConfig) -> Credentials {
    Credentials {
        username: auth.username,
        password: auth.password,
        auth: auth.auth,
        server_address: auth.server_address,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
    }
}
