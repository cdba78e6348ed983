//! What is mounted in a container's bundle for its mounts to show: images, and host paths that the
//! OCI runtime cannot id-map itself. Part of the bundle: made with it, gone with it.
//!
//! An image's layers are our own disk, and are mounted here. A host path is a stranger's: that is
//! done by a process with a deadline.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use berth_image::Digest;
use berth_oci::facts::CheckedMount;
use berth_pod::record::VolumeHeld;
use berth_pod::spec::{ContainerSpec, ImageAsked, Mount, MountSource, UserNamespace};
use berth_pod::{ContainerId, Kind};
use berth_sys::mounts::{self, Attributes, Overlay};
use serde_json::{Value, json};

use super::{Context, Result, Trouble, blocking, bundle, failed, helper, rootfs};
use crate::convert::Fail as _;

/// Their place in the bundle.
const VOLUMES: &str = "volumes";

/// Where the mount of this number is staged.
pub(super) fn place(context: &Context, id: &ContainerId, number: usize) -> PathBuf {
    context.layout().bundle(id.as_str()).join(VOLUMES).join(number.to_string())
}

/// The name that holds the image of a container's mount: the container's id comes first.
fn holder(id: &ContainerId, number: usize) -> String {
    format!("{id}.{number}")
}

fn images(spec: &ContainerSpec) -> impl Iterator<Item = (usize, &Mount, &ImageAsked, &str)> {
    spec.mounts.iter().enumerate().filter_map(|(number, mount)| match &mount.source {
        MountSource::Image { image, sub_path } => Some((number, mount, image, &**sub_path)),
        MountSource::Host(_) => None,
    })
}

/// Keeps the images of a container's mounts whole.
pub(super) async fn hold(context: &Context, id: &ContainerId) -> Result<Vec<VolumeHeld>> {
    let mut held = Vec::new();
    for (number, mount, asked, _) in images(&context.container(id)?.spec.spec) {
        let store = &context.shared.images;
        let found = match store.resolve(&asked.reference) {
            Ok(image) => store.hold(&holder(id, number), &image.id).await.map(|()| image),
            Err(why) => Err(why),
        };
        let image = match found {
            Ok(image) => image,
            Err(why) => return Err(unmountable(mount, asked, why.fail().into())),
        };
        held.push(VolumeHeld { id: image.id.to_string() });
    }
    Ok(held)
}

/// Lets go of them.
pub(super) async fn unhold(context: &Context, id: &ContainerId) -> Result<()> {
    for (number, ..) in images(&context.container(id)?.spec.spec) {
        context.shared.images.unhold(&holder(id, number)).await?;
    }
    Ok(())
}

/// Is this a host path that is staged because the OCI runtime would not id-map it?
pub(super) fn is_staged(context: &Context, mount: &Mount) -> Result<bool> {
    let mapped = !mount.uid_mappings.is_empty() && !mount.gid_mappings.is_empty();
    if !mapped || context.handler()?.facts.id_mapped_mounts {
        return Ok(false);
    }
    let own = UserNamespace { uids: mount.uid_mappings.clone(), gids: mount.gid_mappings.clone() };
    if context.record.spec.spec.namespaces.user.as_ref() == Some(&own) {
        return Ok(true);
    }
    let at = mount.container_path.display();
    let text = format!(
        "mounts: {at} is to be id-mapped otherwise than its pod, and the handler's runtime \
         id-maps no mounts: map it as the pod is, or use a newer runtime"
    );
    failed(Kind::Unimplemented, text)
}

/// Mounts all of them, over what an earlier try left.
pub(super) async fn acquire(
    context: &Context,
    id: &ContainerId,
    mounts: &[CheckedMount],
) -> Result<()> {
    let spec = &context.container(id)?.spec.spec;
    let mut staged = Vec::new();
    for (number, (mount, checked)) in spec.mounts.iter().zip(mounts).enumerate() {
        match &mount.source {
            MountSource::Image { .. } => {}
            MountSource::Host(path) if checked.id_mapped => staged.push((number, mount, path)),
            MountSource::Host(_) => continue,
        }
    }
    if staged.is_empty() && images(spec).next().is_none() {
        return Ok(());
    }
    let directory = context.layout().bundle(id.as_str()).join(VOLUMES);
    bundle::clear(context, &directory).await?;
    let group = bundle::group(&context.record.spec.spec);
    blocking(move || bundle::make_closed(&directory, group)).await?;
    show_images(context, id).await?;
    for (number, mount, path) in staged {
        stage(context, &place(context, id, number), mount, path).await?;
    }
    Ok(())
}

async fn show_images(context: &Context, id: &ContainerId) -> Result<()> {
    let c = context.container(id)?;
    let held = c.image.held().map(|held| &*held.volumes).unwrap_or_default();
    for ((number, mount, asked, sub_path), held) in images(&c.spec.spec).zip(held) {
        let (target, sub_path) = (place(context, id, number), sub_path.to_owned());
        let layers = layers(context, &held.id).await?;
        if let Err(why) = blocking(move || show(layers, &sub_path, &target)).await {
            return Err(unmountable(mount, asked, why));
        }
    }
    Ok(())
}

/// The kubelet knows the word, and looks for it at the beginning.
fn unmountable(mount: &Mount, asked: &ImageAsked, why: Trouble) -> Trouble {
    let Trouble::Failed(mut why) = why else { return why };
    let (image, at) = (&asked.reference, mount.container_path.display());
    why.message = format!("ImageVolumeMountFailed: image {image} at {at}: {}", why.message);
    Trouble::Known(why)
}

/// The directories of an image, in a pod with a user namespace with the ids of that.
async fn layers(context: &Context, image: &str) -> Result<Vec<PathBuf>> {
    let image: Digest = match image.parse() {
        Ok(image) => image,
        Err(why) => return failed(Kind::Broken, format!("image id {image:?}: {why}")),
    };
    let mut layers = context.shared.images.lower_dirs(&image)?;
    if context.record.spec.spec.namespaces.user.is_some() {
        let stage = rootfs::mapped_layers(context).await?;
        let all = context.shared.images.layers_dir();
        for layer in &mut layers {
            // The empty directory below them all is nobody's.
            if let Ok(name) = layer.strip_prefix(&all) {
                *layer = stage.join(name);
            }
        }
    }
    Ok(layers)
}

/// Mounts an image, or what is at a path in it, read-only. Nothing there is a device or gives
/// privileges; programs may be run, for which people mount images (KEP-4639).
fn show(layers: Vec<PathBuf>, sub_path: &str, target: &Path) -> Result<()> {
    std::fs::create_dir_all(target).map_err(|e| ("make", target, e).fail())?;
    let within = if sub_path.is_empty() { "." } else { sub_path };
    // The store's own directory, when the image has no layer.
    let whole = match &layers[..] {
        [only] => mounts::attach(mounts::copy(only, false)?, target),
        _ => Overlay { lower: layers, options: vec!["index=off".to_owned()], ..Overlay::default() }
            .mount(target),
    };
    whole?;
    // What it fails with is said; the bundle's release unmounts what stays.
    let (copy, directory) = mounts::copy_within(target, within)?;
    let attributes = Attributes {
        read_only: Some(true),
        nosuid: Some(true),
        nodev: Some(true),
        propagation: Some(mounts::Propagation::Private),
        ..Attributes::default()
    };
    mounts::set_attributes(copy.as_fd(), "", &attributes, false)?;
    mounts::unmount_all(target)?;
    if !directory {
        std::fs::remove_dir(target).map_err(|e| ("remove", target, e).fail())?;
        File::create(target).map_err(|e| ("make", target, e).fail())?;
    }
    Ok(mounts::attach(&copy, target)?)
}

/// Shows a host path with the ids of the pod's user namespace.
async fn stage(context: &Context, target: &Path, mount: &Mount, path: &Path) -> Result<()> {
    let Some(user) = context.record.namespaces.held().and_then(|held| held.user.clone()) else {
        return failed(Kind::Broken, "the pod's user namespace is not held");
    };
    let request: Value = json!({ "source": path, "target": target, "user": user });
    let deadline = context.settings().stat_deadline;
    let staged = context.abortable(helper::call(context, "idmap", &request, deadline)).await;
    match staged {
        Err(Trouble::Failed(why)) => {
            let (at, why_not) = (mount.container_path.display(), why.message);
            let text = format!(
                "mounts: {} cannot be id-mapped for {at}: {why_not}: use a volume on a file \
                 system that can be, or no user namespace",
                path.display()
            );
            failed(why.kind, text)
        }
        done => done.map(drop),
    }
}
