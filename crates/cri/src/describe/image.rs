//! Images and file systems.

use berth_image::{FsInfo, Image, ImageUser};
use berth_proto::cri::v1 as cri;

/// An image, as lists and status show it.
pub(crate) fn image(image: &Image) -> cri::Image {
    let (uid, username) = match image.facts.image_user() {
        ImageUser::Uid(value) => (Some(cri::Int64Value { value }), String::new()),
        ImageUser::Name(name) => (None, name),
    };
    cri::Image {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        uid,
        username,
        spec: Some(cri::ImageSpec { image: image.id.to_string(), ..Default::default() }),
        pinned: image.pinned,
    }
}

/// What is used of a file system.
pub(crate) fn filesystem(info: &FsInfo) -> cri::FilesystemUsage {
    cri::FilesystemUsage {
        timestamp: super::now(),
        fs_id: Some(cri::FilesystemIdentifier {
            mountpoint: info.mountpoint.to_string_lossy().into_owned(),
        }),
        used_bytes: Some(cri::UInt64Value { value: info.used.bytes }),
        inodes_used: Some(cri::UInt64Value { value: info.used.inodes }),
    }
}
