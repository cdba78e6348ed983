//! ImageFsInfo: what images and writable layers take, from memory.

use berth_proto::cri::v1 as cri;

use crate::{Cri, Error, describe};

pub(crate) async fn image_fs_info(
    cri: &Cri,
    _request: cri::ImageFsInfoRequest,
) -> Result<cri::ImageFsInfoResponse, Error> {
    let images = &cri.parts.images;
    Ok(cri::ImageFsInfoResponse {
        image_filesystems: vec![describe::filesystem(&images.image_fs())],
        container_filesystems: vec![describe::filesystem(&images.container_fs())],
    })
}
