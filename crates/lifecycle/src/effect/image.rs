//! The reference that keeps a container's image whole while the container exists.

use berth_image::Digest;
use berth_oci::user::{LookUp, look_up, resolve};
use berth_pod::record::{ContainerFact, ImageHeld};
use berth_pod::spec::{ImageFacts, ResolvedUser, RunAs};
use berth_pod::{ContainerId, Kind};

use super::{Context, Result, failed, restore, shim, volumes};

pub(super) async fn acquire(context: &Context, id: &ContainerId) -> Result<ContainerFact> {
    // The save that this waited for tells that the sandbox is ready.
    shim::forget_start(context);
    let spec = &context.container(id)?.spec.spec;
    let images = &context.shared.images;
    // The request may carry the image's id or any of its names.
    let image = images.resolve(&spec.image.reference)?;
    images.hold(id.as_str(), &image.id).await?;
    let facts = images.facts(&image.id)?;
    let named = image.repo_digests.first().cloned();
    let facts = ImageFacts {
        id: image.id.to_string(),
        image_ref: named.unwrap_or_else(|| image.id.to_string()),
        entrypoint: facts.entrypoint.clone(),
        cmd: facts.cmd.clone(),
        env: facts.env.clone(),
        working_dir: facts.working_dir.clone(),
        user: facts.user.clone(),
        stop_signal: facts.stop_signal.clone(),
        volumes: facts.volumes.clone(),
    };
    let user = user(context, id, &image.id, &facts.user).await?;
    let volumes = volumes::hold(context, id).await?;
    Ok(ContainerFact::Image(ImageHeld { facts, user, volumes }.into()))
}

async fn user(
    context: &Context,
    id: &ContainerId,
    image: &Digest,
    declared: &str,
) -> Result<ResolvedUser> {
    let security = &context.container(id)?.spec.spec.security;
    let users = context.shared.images.users(image).await?;
    let found = match look_up(security, declared) {
        LookUp::Uid(uid) => users.resolve_uid(uid),
        LookUp::Text(text) => match users.resolve(text) {
            Ok(found) => found,
            Err(why) if security.run_as == RunAs::Image => {
                return failed(Kind::Invalid, format!("the image's user: {why}"));
            }
            Err(why) => return failed(Kind::Invalid, format!("run_as_username: {why}")),
        },
    };
    let found =
        ResolvedUser { uid: found.uid, gid: found.gid, groups: found.groups, home: found.home };
    Ok(resolve(security, found))
}

pub(super) async fn release(context: &Context, id: &ContainerId) -> Result<()> {
    volumes::unhold(context, id).await?;
    restore::unhold(context, id).await?;
    Ok(context.shared.images.unhold(id.as_str()).await?)
}
