//! A container made of a checkpoint, an archive or an image: who it is of is read when it is created, its files
//! come to its writable layer, and CRIU's images lie beside that until its processes run.

use std::path::PathBuf;
use std::time::Duration;

use berth_image::Digest;
use berth_oci::check_restored;
use berth_pod::record::{ContainerRecord, Failure, RootfsFact};
use berth_pod::spec::Checkpoint;
use berth_pod::{ContainerId, Kind};
use serde_json::{Value, json};

use super::checkpoint::{able, layers};
use super::{Context, Result, Trouble, blocking, failed, files, helper};
use crate::convert::Fail as _;

/// A checkpoint has a whole memory, and is unpacked while a container is created.
const UNPACK: Duration = Duration::from_secs(120);
/// The spec that the checkpoint was written of, beside the images.
const SPEC: &str = "spec.dump";
/// What was changed of the image, until it is.
const CHANGES: &str = "rootfs-diff.tar";

/// What a checkpoint says of the container that it is of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpointed {
    /// What its image may be known by: its id, and its names.
    pub images: Vec<String>,
    /// Its command.
    pub args: Vec<String>,
    /// Its variables, `NAME=value`.
    pub env: Vec<String>,
    /// Its working directory.
    pub cwd: String,
}

/// Reads who a checkpoint is of, and whether this pod can have it at all.
pub(crate) async fn peek(context: &Context, checkpoint: &Checkpoint) -> Result<Checkpointed> {
    able(context, &format!("the checkpoint {checkpoint}"))?;
    alone(context)?;
    let deadline = context.settings().stat_deadline;
    let request = json!({"from": from(context, checkpoint).await?});
    let seen = helper::call(context, "peek", &request, deadline).await?;
    let (config, process) = (&seen["config"], &seen["spec"]["process"]);
    let images = ["rootfsImageRef", "rootfsImageName", "rootfsImage"];
    let images = images.iter().filter_map(|name| text(&config[*name]));
    Ok(Checkpointed {
        images: images.filter(|name| !name.is_empty()).collect(),
        args: texts(&process["args"]),
        env: texts(&process["env"]),
        cwd: text(&process["cwd"]).unwrap_or_default(),
    })
}

/// CRIU writes what the checkpoint's IPC namespace had into that of the pod.
fn alone(context: &Context) -> Result<()> {
    let of_ipc = |name: &&String| {
        ["kernel.sem", "kernel.shm", "kernel.msg", "fs.mqueue."]
            .iter()
            .any(|of| name.starts_with(of))
    };
    match context.record.spec.spec.sysctls.keys().find(of_ipc) {
        Some(name) => failed(
            Kind::Unimplemented,
            format!(
                "the pod has the sysctl {name}, and a checkpoint brings its own with its IPC \
                 namespace: restore it in a pod without"
            ),
        ),
        None => Ok(()),
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(text).collect()
}

/// Where the parts of its checkpoint are kept: they go with the writable layer.
fn parts(rootfs: &RootfsFact) -> Result<PathBuf> {
    match layers(rootfs).and_then(|(upper, _)| Some(upper.parent()?.join("checkpoint"))) {
        Some(parts) => Ok(parts),
        None => failed(Kind::Broken, "the rootfs is no overlay with a writable layer"),
    }
}

/// Where CRIU's images are, of a container that is made of a checkpoint.
pub(super) fn images(container: &ContainerRecord) -> Result<Option<PathBuf>> {
    match (&container.spec.spec.checkpoint, container.rootfs.held()) {
        (Some(_), Some(rootfs)) => Ok(Some(parts(rootfs)?.join("checkpoint"))),
        _ => Ok(None),
    }
}

/// What the helper is to read.
async fn from(context: &Context, checkpoint: &Checkpoint) -> Result<Value> {
    let id = match checkpoint {
        Checkpoint::Archive(path) => return Ok(json!({"archive": path})),
        Checkpoint::Image(id) => id,
    };
    match context.shared.images.checkpoint(&digest(id)?).await? {
        Some(layer) => Ok(json!({"layer": layer})),
        None => failed(Kind::Invalid, format!("image {id} is no checkpoint")),
    }
}

fn digest(id: &str) -> Result<Digest> {
    let parsed = id.parse();
    parsed.or_else(|why| failed(Kind::Broken, format!("image id {id:?}: {why}")))
}

/// The name that holds the image of a checkpoint: the container's id comes first.
fn holder(id: &ContainerId) -> String {
    format!("{id}.checkpoint")
}

/// Lets go of the image of a checkpoint, which is needed until its parts are here.
pub(super) async fn unhold(context: &Context, id: &ContainerId) -> Result<()> {
    if let Some(Checkpoint::Image(_)) = &context.container(id)?.spec.spec.checkpoint {
        context.shared.images.unhold(&holder(id)).await?;
    }
    Ok(())
}

/// Takes apart the checkpoint of a container that is made of one. A repeat does it over.
pub(super) async fn unpack(context: &Context, id: &ContainerId, rootfs: &RootfsFact) -> Result<()> {
    let Some(checkpoint) = &context.container(id)?.spec.spec.checkpoint else { return Ok(()) };
    if let Checkpoint::Image(image) = checkpoint {
        context.shared.images.hold(&holder(id), &digest(image)?).await?;
    }
    let parts = parts(rootfs)?;
    let earlier = parts.clone();
    blocking(move || files::remove(&earlier)).await?;
    let layout = context.layout();
    let hostname = layout.hostname(&context.record.spec.spec);
    let from = from(context, checkpoint).await?;
    let request = json!({"from": from, "into": parts, "hostname": hostname});
    let done = context.abortable(helper::call(context, "unpack", &request, UNPACK)).await?;
    let gone = texts(&done["deleted"]);
    let changes = parts.join(CHANGES);
    context.shared.images.fill_snapshot(id.as_str(), &changes, gone).await?;
    blocking(move || files::remove(&changes)).await?;
    unhold(context, id).await
}

/// Nothing weaker than what was asked for may come of a checkpoint.
pub(super) fn check(context: &Context, id: &ContainerId, config: &[u8]) -> Result<()> {
    let container = context.container(id)?;
    if container.spec.spec.checkpoint.is_none() {
        return Ok(());
    }
    let Some(rootfs) = container.rootfs.held() else {
        return failed(Kind::Broken, "the rootfs is not held");
    };
    let path = parts(rootfs)?.join(SPEC);
    let dumped = std::fs::read(&path).map_err(|e| ("read", path.as_path(), e).fail())?;
    let json = |text: &[u8]| {
        serde_json::from_slice::<Value>(text).map_err(|why| {
            let text = format!("the checkpoint's spec cannot be read: {why}");
            Trouble::Failed(Failure::new(Kind::Invalid, text))
        })
    };
    Ok(check_restored(&json(config)?, &json(&dumped)?)?)
}

/// The container runs: nothing of its checkpoint is needed any more.
pub(super) async fn served(container: &ContainerRecord) {
    let (Some(_), Some(rootfs)) = (&container.spec.spec.checkpoint, container.rootfs.held()) else {
        return;
    };
    let Ok(parts) = parts(rootfs) else { return };
    if let Err(why) = blocking(move || files::remove(&parts)).await {
        let error = crate::Error::from(why);
        tracing::warn!(container = %container.id, %error, "its checkpoint stays until it is removed");
    }
}
