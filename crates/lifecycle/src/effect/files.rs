//! resolv.conf, hostname, hosts and /dev/shm: ours, so no child is needed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_oci::files::{hostname_file, resolv_conf};
use berth_pod::Kind;
use berth_pod::record::{FilesFact, PodFact};
use berth_pod::spec::{PodOrNode, SandboxSpec};
use berth_sys::beneath::Beneath;
use berth_sys::mounts;

use super::{Context, Result, Trouble, blocking, bundle, failed};
use crate::convert::Fail as _;

/// A hosts file for a node that has none.
const LOCALHOST: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost\n";

pub(super) async fn acquire(context: &Context) -> Result<PodFact> {
    let (id, spec) = (&context.record.id, &context.record.spec.spec);
    let directory = context.layout().sandbox_files(id);
    let files = context.layout().files(id, spec);
    let contents = [
        ("resolv.conf", resolv(context, spec)?),
        ("hostname", hostname_file(context.layout().hostname(spec))),
        (
            "hosts",
            std::fs::read_to_string(&context.settings().hosts).unwrap_or_else(|_| LOCALHOST.into()),
        ),
    ];
    let shm = files.shm.clone().unwrap_or_default();
    let own_shm = spec.namespaces.ipc == PodOrNode::Pod;
    let options = shm_options(context, spec);
    let group = bundle::group(spec);
    let fact = FilesFact {
        resolv_conf: directory.join("resolv.conf"),
        hostname: directory.join("hostname"),
        hosts: directory.join("hosts"),
        shm: shm.clone(),
    };
    blocking(move || {
        bundle::make_closed(&directory, group)?;
        for (name, text) in contents {
            let path = directory.join(name);
            std::fs::write(&path, text).map_err(|e| ("write", path.as_path(), e).fail())?;
        }
        if own_shm { mount_shm(&shm, &options) } else { Ok(()) }
    })
    .await?;
    Ok(PodFact::Files(fact))
}

fn make(directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory).map_err(|e| ("make", directory, e).fail())?;
    Ok(())
}

fn resolv(context: &Context, spec: &SandboxSpec) -> Result<String> {
    match &spec.dns {
        Some(dns) => Ok(resolv_conf(dns)?),
        None => {
            let path = &context.settings().resolv_conf;
            // A node without one resolves nothing, and neither do its pods.
            Ok(std::fs::read_to_string(path).unwrap_or_default())
        }
    }
}

/// The root of a pod with a user namespace must own its shm.
fn shm_options(context: &Context, spec: &SandboxSpec) -> String {
    let mut options = format!("mode=1777,size={}", context.settings().shm_size);
    if let Some(user) = &spec.namespaces.user {
        let root = |ranges: &[berth_pod::spec::IdMapping]| {
            ranges.iter().find(|m| m.container_id == 0).map(|m| m.host_id)
        };
        if let (Some(uid), Some(gid)) = (root(&user.uids), root(&user.gids)) {
            options.push_str(&format!(",uid={uid},gid={gid}"));
        }
    }
    options
}

fn mount_shm(shm: &PathBuf, options: &str) -> Result<()> {
    make(shm)?;
    if mounts::is_mounted(shm)? {
        return Ok(()); // an earlier try has mounted it
    }
    let flags = mounts::Flags::NOSUID | mounts::Flags::NOEXEC | mounts::Flags::NODEV;
    Ok(mounts::mount("shm", shm, "tmpfs", flags, options)?)
}

/// Lets go of what is mounted. The files themselves are removed when the pod is gone, and nobody waits:
/// on a busy disk that takes milliseconds.
pub(super) async fn release(context: &Context) -> Result<()> {
    let state = context.layout().sandbox_state(&context.record.id);
    blocking(move || {
        for name in ["shm", "layers"] {
            let mounted = state.join(name);
            mounts::unmount_all(&mounted)?;
            remove(&mounted)?;
        }
        remove(&state.join("files"))?; // where earlier versions had them
        // It may hold pinned namespaces still: whoever empties it removes it.
        let _ = std::fs::remove_dir(&state);
        Ok(())
    })
    .await
}

/// How soon, and how seldom, a disk that takes no writes is tried again.
const RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// Removes the files of a pod that no record names any more, as soon as the disk lets them go. A daemon
/// that dies before that leaves them to the next one.
pub(crate) async fn drop_unnamed(directory: PathBuf) {
    let [mut pause, longest] = RETRY;
    loop {
        let again = directory.clone();
        let Err(Trouble::Failed(why)) = blocking(move || remove(&again)).await else { return };
        if pause == RETRY[0] {
            let (directory, error) = (directory.display(), why.message);
            tracing::warn!(%directory, error, "cannot remove the files of a pod that is gone");
        }
        tokio::time::sleep(pause).await;
        pause = longest.min(pause * 2);
    }
}

/// Removes a directory of ours; absent is fine. Busy if anything is mounted in it: whatever that is,
/// the image store it may be, it is not entered.
pub(super) fn remove(directory: &Path) -> Result<()> {
    let (Some(parent), Some(name)) = (directory.parent(), directory.file_name()) else {
        return failed(Kind::Broken, format!("{} is no directory of ours", directory.display()));
    };
    match Beneath::open_root(parent).and_then(|parent| parent.remove_all(name)) {
        Err(why) if !why.is_not_found() => Err(why.into()),
        _ => Ok(()),
    }
}
