//! A use: a running container's checkpoint, as one archive in the form of CRI-O and Podman.
//!
//! ```text
//!   freeze ─▶ CRIU, by the shim ─▶ what it has changed of its image ─▶ thaw ─▶ one tar, put in place whole
//! ```
//!
//! All of it is gathered in a directory of ours, which is there before the container is frozen: by
//! that a new daemon knows that it has one to thaw.

use std::collections::HashSet;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use berth_pod::record::{ContainerRecord, Failure, RootfsFact};
use berth_pod::{ContainerId, Kind};
use berth_shim_client::{Checkpoint, Kind as ShimKind, Shim, Status};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::bundle::{CONFIG, ask};
use super::{Context, Result, Trouble, blocking, connection, failed, files, helper};
use crate::convert::Fail as _;
use crate::shared::Shared;

/// How long it may take if the caller does not say.
const USUAL: Duration = Duration::from_secs(120);
/// A longer time is not waited for.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// How long the container may take to go on afterwards.
const THAW: Duration = Duration::from_secs(10);
/// The first pause before that is tried again, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];
/// What of the time is kept for putting an answer together.
const LEAST: Duration = Duration::from_millis(100);
/// Where `berth-helper pack` notes what it writes to, if that has a name before it is whole.
const PARTIAL: &str = ".partial";

/// The containers that a checkpoint is written of, or that a dead daemon was writing one of.
#[derive(Debug, Default)]
pub(crate) struct UnderWay(Mutex<HashSet<String>>);

/// One of them, until this is dropped.
pub(crate) struct Turn<'a>(&'a UnderWay, String);

impl UnderWay {
    fn of(&self, id: &str) -> Option<Turn<'_>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(id.to_owned()).then(|| Turn(self, id.to_owned()))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

/// Writes a checkpoint of a running container to a file that is not there yet. The container goes
/// on, whatever comes of it.
pub(crate) async fn write(
    context: &Context,
    id: &ContainerId,
    location: &Path,
    timeout: Option<Duration>,
) -> Result<()> {
    let deadline = Instant::now() + timeout.unwrap_or(USUAL).min(LONGEST);
    able(context, &format!("container {id}"))?;
    let Some(turn) = context.shared.checkpoints.of(id.as_str()) else {
        return failed(Kind::Busy, format!("a checkpoint of container {id} is being written"));
    };
    free(context, location).await?;
    let work = context.layout().checkpoint(id.as_str());
    let made = work.clone();
    blocking(move || make(&made)).await?;
    let mut begun = Begun { context, id, work: &work, deadline, frozen: false };
    let done = match begun.gather().await {
        Ok(()) => begun.pack(location).await,
        Err(why) => Err(why),
    };
    if !begun.frozen {
        clear(&context.shared, id.as_str(), work).await?;
        return done;
    }
    // By its directory a new daemon knows that there is a container to thaw, if this one dies.
    std::mem::forget(turn);
    let (shared, id) = (Arc::clone(&context.shared), id.to_string());
    let (_, canceled) = super::cancel();
    let again = Context::new(&shared, &context.record, context.queue.clone(), canceled);
    tokio::spawn(async move { undo(Some(&again), &shared, &id, work).await });
    done
}

/// Can containers of this pod be checkpointed, and be made of checkpoints, at all?
pub(super) fn able(context: &Context, subject: &str) -> Result<()> {
    let handler = context.handler()?;
    if !handler.facts.checkpoint {
        let name = &context.record.handler;
        let text = format!(
            "{subject}: the OCI runtime of handler {name:?} does not say that it can write and \
             restore checkpoints (runc with CRIU can)"
        );
        return failed(Kind::Unimplemented, text);
    }
    if context.record.spec.spec.namespaces.user.is_some() {
        let text = format!(
            "{subject}: the pod has a user namespace, whose ids mean nothing elsewhere: no \
             checkpoint is written or restored there"
        );
        return failed(Kind::Unimplemented, text);
    }
    if !criu() {
        let text = format!("{subject}: a checkpoint needs criu, which is not on PATH: install it");
        return failed(Kind::WrongState, text);
    }
    Ok(())
}

/// Is CRIU where OCI runtimes look for it? Shims have the daemon's PATH.
pub(crate) fn criu() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    let executable = |file: PathBuf| {
        let found = std::fs::metadata(file);
        found.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(&path).any(|directory| executable(directory.join("criu")))
}

/// The place must be free, and its directory there. It is the caller's: a process looks at it.
async fn free(context: &Context, location: &Path) -> Result<()> {
    let shown = location.display();
    let Some(parent) = location.parent().filter(|_| location.file_name().is_some()) else {
        return failed(Kind::Invalid, format!("location {shown} names no file"));
    };
    let one = |path: &Path, want: &str| json!({"path": path, "want": want});
    let found = ask(context, vec![one(location, "any"), one(parent, "dir")]).await?;
    if found[0]["exists"] == true {
        return failed(Kind::Exists, format!("location: {shown} exists already"));
    }
    if let (true, Some(why)) = (found[1]["exists"] == true, found[1]["problem"].as_str()) {
        return failed(Kind::Invalid, format!("location {shown}: {why}"));
    }
    if found[1]["exists"] != true {
        let text = format!("location: {} does not exist: make it first", parent.display());
        return failed(Kind::NotFound, text);
    }
    Ok(())
}

/// Makes the directory that all is gathered in, anew.
fn make(work: &Path) -> Result<()> {
    files::remove(work)?;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(work);
    made.map_err(|e| ("make", work, e).fail())?;
    Ok(())
}

/// Removes what was gathered, and what a helper that was killed while it packed has left beside the
/// location: it notes that where the file system makes it write under a name.
async fn clear(shared: &Shared, id: &str, work: PathBuf) -> Result<()> {
    if std::fs::symlink_metadata(work.join(PARTIAL)).is_ok() {
        let deadline = shared.settings.helper_deadline;
        let done = helper::call_for(shared, "discard", &json!({"from": work}), deadline).await;
        if let Err(why) = done {
            let error = crate::Error::from(why);
            tracing::warn!(container = id, %error, "half of a checkpoint's archive may be left");
        }
    }
    blocking(move || files::remove(&work)).await
}

/// A checkpoint under way.
struct Begun<'a> {
    context: &'a Context,
    id: &'a ContainerId,
    work: &'a Path,
    deadline: Instant,
    /// It is not known to go on.
    frozen: bool,
}

impl Begun<'_> {
    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now()).max(LEAST)
    }

    /// Freezes the container, gathers what there is of it, and has it go on.
    async fn gather(&mut self) -> Result<()> {
        let shim = connection(self.context).await?;
        let done = match shim.pause(self.id.as_str()).await {
            Ok(()) => match self.dump(&shim).await {
                Ok(()) => self.changes().await,
                Err(why) => Err(why),
            },
            // Without an answer in time it may freeze yet.
            Err(why) => Err(why.into()),
        };
        let goes_on = resume(&shim, self.id).await;
        self.frozen = goes_on.is_err();
        done.and(goes_on)?;
        self.describe().await
    }

    async fn dump(&self, shim: &Shim) -> Result<()> {
        let images = self.work.join("checkpoint");
        let wanted = Checkpoint { images, work: self.work.to_owned(), limit: self.left() };
        Ok(shim.checkpoint(self.id.as_str(), wanted).await?)
    }

    async fn changes(&self) -> Result<()> {
        let record = self.context.container(self.id)?;
        let Some(rootfs) = record.rootfs.held() else {
            return failed(Kind::Broken, "the rootfs is not held");
        };
        let Some((upper, lower)) = layers(rootfs) else {
            return failed(Kind::Broken, "the rootfs is no overlay with a writable layer");
        };
        let request = json!({"upper": upper, "lower": lower, "into": self.work});
        helper::call(self.context, "changes", &request, self.left()).await.map(drop)
    }

    /// Writes who it was.
    async fn describe(&self) -> Result<()> {
        let record = self.context.container(self.id)?;
        let bundle = self.context.layout().bundle(self.id.as_str());
        let path = bundle.join(CONFIG);
        let spec = std::fs::read(&path).map_err(|e| ("read", path.as_path(), e).fail())?;
        let spec = described(&spec, record).ok_or_else(|| {
            Trouble::Failed(Failure::new(Kind::Broken, format!("{} is no JSON", path.display())))
        })?;
        let files = [
            (
                "config.dump",
                config(record, &self.context.record.handler, self.context.shared.now()),
            ),
            ("status", status(record)),
            ("spec.dump", spec),
        ];
        let work = self.work.to_owned();
        blocking(move || {
            for (name, content) in files {
                let path = work.join(name);
                std::fs::write(&path, content.to_string())
                    .map_err(|e| ("write", path.as_path(), e).fail())?;
            }
            Ok(())
        })
        .await
    }

    async fn pack(&self, location: &Path) -> Result<()> {
        let request = json!({"from": self.work, "location": location});
        helper::call(self.context, "pack", &request, self.left()).await.map(drop)
    }
}

/// Has a container go on: it does when this says so. Its runtime may be busy with it still.
async fn resume(shim: &Shim, id: &ContainerId) -> Result<()> {
    let end = Instant::now() + THAW;
    loop {
        let why = match shim.resume(id.as_str()).await {
            Ok(()) => return Ok(()),
            Err(why) => why,
        };
        match shim.state(id.as_str(), None).await {
            // Unless what freezes it is under way still, and this waits behind it.
            Ok(state) if state.status == Status::Running && heard(&why) => return Ok(()),
            // It has ended: there is nothing to thaw.
            Ok(state) if state.status == Status::Stopped => return Ok(()),
            Err(gone) if gone.kind() == ShimKind::NotFound => return Ok(()),
            _ if Instant::now() > end => return Err(why.into()),
            _ => tokio::time::sleep(LEAST).await,
        }
    }
}

/// Is this an answer of the shim?
fn heard(why: &berth_shim_client::Error) -> bool {
    !matches!(why.kind(), ShimKind::TimedOut | ShimKind::Unavailable | ShimKind::Cancelled)
}

/// The writable layer of an overlay, and those below it, the uppermost first.
pub(super) fn layers(rootfs: &RootfsFact) -> Option<(PathBuf, Vec<PathBuf>)> {
    let of = |name: &str| rootfs.options.iter().find_map(|option| option.strip_prefix(name));
    let plain = |path: &str| PathBuf::from(path.replace("\\:", ":").replace("\\,", ","));
    // A layer's directory is `<store>/l/<number>`: a colon can only be in what stands before.
    let lower = of("lowerdir=")?.split(":/").enumerate();
    let lower = lower.map(|(n, dir)| plain(&if n == 0 { dir.into() } else { format!("/{dir}") }));
    Some((plain(of("upperdir=")?), lower.collect()))
}

/// The spec, with what CRI-O looks for in one.
fn described(spec: &[u8], record: &ContainerRecord) -> Option<Value> {
    let mut spec: Value = serde_json::from_slice(spec).ok()?;
    let asked = &record.spec.spec;
    let annotations = spec.as_object_mut()?.entry("annotations").or_insert_with(|| json!({}));
    for (name, map) in [("Annotations", &asked.annotations), ("Labels", &asked.labels)] {
        let key = format!("io.kubernetes.cri-o.{name}");
        annotations[key] = json!(serde_json::to_string(map).unwrap_or_default());
    }
    Some(spec)
}

/// What CRI-O and Podman call `config.dump`.
fn config(record: &ContainerRecord, handler: &str, now: i64) -> Value {
    let asked = &record.spec.spec;
    let image = record.image.held();
    let shown = if asked.image.user_specified.is_empty() {
        &asked.image.reference
    } else {
        &asked.image.user_specified
    };
    json!({
        "id": record.id.as_str(),
        "name": asked.name.name,
        "rootfsImage": shown,
        "rootfsImageRef": image.map(|image| &image.facts.id),
        "rootfsImageName": image.map(|image| &image.facts.image_ref),
        "runtime": handler,
        "createdTime": stamp(record.created_at),
        "checkpointedTime": stamp(now),
        "restoredTime": "0001-01-01T00:00:00Z",
        "restored": false,
    })
}

/// What containerd calls `status`: checkpointctl looks for it.
fn status(record: &ContainerRecord) -> Value {
    json!({
        "CreatedAt": record.created_at,
        "StartedAt": record.started_at.unwrap_or_default(),
        "FinishedAt": 0,
        "ExitCode": 0,
        "Pid": record.task.held().map_or(0, |task| task.pid),
        "Reason": "",
        "Message": "",
    })
}

/// Nanoseconds since the epoch, as RFC 3339 has them.
fn stamp(nanos: i64) -> String {
    let since = Duration::from_nanos(u64::try_from(nanos).unwrap_or_default());
    berth_log::stamp(std::time::UNIX_EPOCH + since)
}

/// Of which containers a dead daemon was writing checkpoints. It is looked for before any call is
/// served.
pub(crate) fn interrupted(shared: &Arc<Shared>) -> Vec<(String, PathBuf)> {
    let all = crate::layout::Layout(&shared.settings).checkpoints();
    let entries = std::fs::read_dir(all).into_iter().flatten().flatten();
    let one = |entry: std::fs::DirEntry| {
        let id = entry.file_name().into_string().ok()?;
        // Kept until it is undone.
        if let Some(turn) = shared.checkpoints.of(&id) {
            std::mem::forget(turn);
        }
        Some((id, entry.path()))
    };
    entries.filter_map(one).collect()
}

/// Has such a container go on, as long as it runs, and removes what was gathered.
pub(crate) async fn undo(context: Option<&Context>, shared: &Shared, id: &str, work: PathBuf) {
    let _turn = Turn(&shared.checkpoints, id.to_owned());
    if let (Some(context), Ok(id)) = (context, ContainerId::parse(id)) {
        tracing::info!(container = %id, "a checkpoint of it may have left it frozen");
        let [mut pause, longest] = PAUSES;
        while let Err(why) = go_on(context, &id).await {
            let error = crate::Error::from(why);
            tracing::error!(container = %id, %error, "cannot have it go on: it may be frozen");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }
    if let Err(why) = clear(shared, id, work).await {
        let error = crate::Error::from(why);
        tracing::warn!(container = id, %error, "cannot remove what was written of a checkpoint");
    }
}

async fn go_on(context: &Context, id: &ContainerId) -> Result<()> {
    let view = context.shared.registry.container_view(id.as_str());
    if view.is_ok_and(|view| view.exit().is_none()) {
        let shim = connection(context).await?;
        resume(&shim, id).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layers_of_an_overlay_are_found_in_its_options() {
        let options = ["index=off", "lowerdir=/s/l/2:/s/l/1", "upperdir=/s/c/upper", "workdir=/w"];
        let rootfs = RootfsFact {
            kind: "overlay".into(),
            source: "overlay".into(),
            options: options.map(str::to_owned).into(),
        };
        let (upper, lower) = layers(&rootfs).unwrap();
        assert_eq!(upper, Path::new("/s/c/upper"));
        assert_eq!(lower, ["/s/l/2", "/s/l/1"].map(PathBuf::from));
    }

    #[test]
    fn a_container_has_one_checkpoint_at_a_time() {
        let all = UnderWay::default();
        let turn = all.of("a").unwrap();
        assert!(all.of("a").is_none());
        assert!(all.of("b").is_some());
        drop(turn);
        assert!(all.of("a").is_some());
    }

    #[test]
    fn a_time_is_written_as_others_read_it() {
        assert_eq!(stamp(1_000_000_007), "1970-01-01T00:00:01.000000007Z");
    }
}
