//! The container's writable layer on its image: prepared here, mounted by the shim.
//!
//! In a pod with a user namespace the image's files must belong to the ids of that namespace. One
//! id-mapped mount of all layers, shared by the pod's containers, does it: a mount for each layer
//! of each container would flood the mount table.

use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};

use berth_pod::record::{ContainerFact, RootfsFact};
use berth_pod::spec::{IdMapping, UserNamespace};
use berth_pod::{ContainerId, Kind};
use berth_sys::mounts::{self, Attributes};

use super::{Context, Result, blocking, failed, restore};
use crate::convert::Fail as _;

pub(super) async fn acquire(context: &Context, id: &ContainerId) -> Result<ContainerFact> {
    let Some(image) = context.container(id)?.image.held() else {
        return failed(Kind::Broken, "the image is not held");
    };
    let image = match image.facts.id.parse() {
        Ok(image) => image,
        Err(why) => return failed(Kind::Broken, format!("image id {:?}: {why}", image.facts.id)),
    };
    let mount = context.shared.images.prepare(id.as_str(), &image).await?;
    let mut fact = RootfsFact { kind: mount.kind, source: mount.source, options: mount.options };
    if let Some(user) = context.record.spec.spec.namespaces.user.clone() {
        let layers = context.shared.images.layers_dir();
        let stage = mapped_layers(context).await?;
        let options = std::mem::take(&mut fact.options);
        fact.options = blocking(move || map_options(options, (&layers, &stage), &user)).await?;
    }
    restore::unpack(context, id, &fact).await?;
    Ok(ContainerFact::Rootfs(fact))
}

/// Where all layers are shown with the ids of the pod's user namespace, one directory each.
pub(super) async fn mapped_layers(context: &Context) -> Result<PathBuf> {
    let layers = context.shared.images.layers_dir();
    let stage = context.layout().layers(&context.record.id);
    let namespace = context.record.namespaces.held().and_then(|n| n.user.clone());
    let staging = context.shared.staging.lock().await;
    let mapped = stage.clone();
    blocking(move || map_layers(&layers, &stage, namespace.as_deref())).await?;
    drop(staging);
    Ok(mapped)
}

/// Shows the layers, read-only, with the ids of the pod's user namespace (Linux 5.19 for overlay).
fn map_layers(layers: &Path, stage: &Path, namespace: Option<&Path>) -> Result<()> {
    let Some(namespace) = namespace else {
        return failed(Kind::Broken, "the pod's user namespace is not held");
    };
    if mounts::is_mounted(stage)? {
        return Ok(()); // made for another container of this pod, or by an earlier try
    }
    std::fs::create_dir_all(stage).map_err(|e| ("make", stage, e).fail())?;
    let namespace = berth_sys::namespace::open(namespace)?;
    let copy = mounts::copy(layers, false)?;
    let attributes = Attributes {
        read_only: Some(true),
        user_namespace: Some(std::os::fd::AsFd::as_fd(&namespace)),
        propagation: Some(mounts::Propagation::Private),
        ..Attributes::default()
    };
    mounts::set_attributes(&copy, "", &attributes, false)?;
    Ok(mounts::attach(&copy, stage)?)
}

/// The lower directories through the stage, and the upper one given to the mapped owner.
fn map_options(
    options: Vec<String>,
    (layers, stage): (&Path, &Path),
    user: &UserNamespace,
) -> Result<Vec<String>> {
    let mut mapped = Vec::with_capacity(options.len());
    for option in options {
        if let Some(lower) = option.strip_prefix("lowerdir=") {
            let through = |dir: &str| match Path::new(dir).strip_prefix(layers) {
                Ok(name) => stage.join(name).to_string_lossy().into_owned(),
                Err(_) => dir.to_owned(), // the empty directory of an image without layers
            };
            let dirs: Vec<_> = lower.split(':').map(through).collect();
            mapped.push(format!("lowerdir={}", dirs.join(":")));
            continue;
        }
        if let Some(upper) = option.strip_prefix("upperdir=") {
            give(&PathBuf::from(upper), user)?;
        }
        mapped.push(option);
    }
    Ok(mapped)
}

/// Gives the root of the file system to whom its owner is outside. A repeat changes nothing.
fn give(upper: &Path, user: &UserNamespace) -> Result<()> {
    let of: Metadata = std::fs::metadata(upper).map_err(|e| ("look at", upper, e).fail())?;
    let outside = |ranges: &[IdMapping], id: u32| {
        let done = ranges.iter().any(|m| id >= m.host_id && id - m.host_id < m.length);
        let range = ranges.iter().find(|m| id >= m.container_id && id - m.container_id < m.length);
        if done { Some(id) } else { range.map(|m| m.host_id + (id - m.container_id)) }
    };
    let (uid, gid) = (outside(&user.uids, of.uid()), outside(&user.gids, of.gid()));
    chown(upper, uid, gid).map_err(|e| ("change the owner of", upper, e).fail())?;
    Ok(())
}

pub(super) async fn release(context: &Context, id: &ContainerId) -> Result<()> {
    Ok(context.shared.images.drop_snapshot(id.as_str()).await?)
}
