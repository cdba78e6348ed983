//! The container's writable layer on its image: prepared here, mounted by the shim.

use berth_pod::record::{ContainerFact, RootfsFact};
use berth_pod::{ContainerId, Kind};

use super::{Context, Result, failed};

pub(super) async fn acquire(context: &Context, id: &ContainerId) -> Result<ContainerFact> {
    if context.record.spec.spec.namespaces.user.is_some() {
        // Without id-mapped layers its root could not even write its own files.
        return failed(
            Kind::Unimplemented,
            "the image cannot be id-mapped for a pod with a user namespace yet: use hostUsers: true",
        );
    }
    let Some(image) = context.container(id)?.image.held() else {
        return failed(Kind::Broken, "the image is not held");
    };
    let image = match image.facts.id.parse() {
        Ok(image) => image,
        Err(why) => return failed(Kind::Broken, format!("image id {:?}: {why}", image.facts.id)),
    };
    let mount = context.shared.images.prepare(id.as_str(), &image).await?;
    let (kind, source) = (mount.kind, mount.source);
    Ok(ContainerFact::Rootfs(RootfsFact { kind, source, options: mount.options }))
}

pub(super) async fn release(context: &Context, id: &ContainerId) -> Result<()> {
    Ok(context.shared.images.drop_snapshot(id.as_str()).await?)
}
