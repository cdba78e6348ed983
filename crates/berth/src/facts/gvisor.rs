//! Does gVisor's own network stack start on this node? Only a try can tell.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use berth_job::Job;
use berth_oci::facts::GuestNetwork;
use berth_sys::spawn::Spawn;
use serde_json::json;

/// A sandbox takes some tenths of a second.
const DEADLINE: Duration = Duration::from_secs(20);
/// Our shim's word for becoming a runtime that is to start it.
const VERB: &str = "netstack";
/// What the sandbox runs: our shim, a static program, which then says what it is.
const PROGRAM: &str = "shim";

/// Runs a sandbox that ends at once, in `scratch`. What does not come up leaves the node's network.
pub(super) async fn network(runsc: &Path, shim: &Path, scratch: &Path) -> GuestNetwork {
    static TRIES: AtomicU64 = AtomicU64::new(0);
    let number = TRIES.fetch_add(1, Ordering::Relaxed);
    let dir = scratch.with_extension(format!("{}-{number}", std::process::id()));
    let tried = tried(runsc, shim, &dir).await;
    if let Err(error) = std::fs::remove_dir_all(&dir) {
        tracing::warn!(dir = %dir.display(), %error, "the directory of gVisor's try cannot be removed");
    }
    match tried {
        Ok(()) => GuestNetwork::Own,
        Err(why) => {
            tracing::warn!(runtime = %runsc.display(), why, "gVisor's own network stack does not start here: its pods use the node's");
            GuestNetwork::Node
        }
    }
}

async fn tried(runsc: &Path, shim: &Path, dir: &Path) -> Result<(), String> {
    let bundle = prepare(shim, dir).map_err(|why| format!("prepare {}: {why}", dir.display()))?;
    let root = dir.join("root");
    let spawn = Spawn::new(shim)
        .arg(VERB)
        .arg(runsc)
        .args(["--platform=systrap", "--overlay2=none", "--network=sandbox", "--ignore-cgroups"])
        .arg("--root")
        .arg(&root)
        .args(["run", "--bundle"])
        .arg(&bundle)
        .arg("try")
        .cwd(dir);
    let outcome = Job::new(spawn, DEADLINE).run().await;
    outcome.and_then(berth_job::Outcome::success).map(drop).map_err(|why| why.to_string())
}

/// Makes a bundle; the network namespace is one of its own, with nothing in it.
fn prepare(shim: &Path, dir: &Path) -> io::Result<PathBuf> {
    let rootfs = dir.join("rootfs");
    for mount_point in ["proc", "dev", "sys", "tmp"] {
        std::fs::create_dir_all(rootfs.join(mount_point))?;
    }
    std::fs::copy(shim, rootfs.join(PROGRAM))?;
    let namespaces = ["pid", "mount", "ipc", "uts", "network"].map(|kind| json!({"type": kind}));
    let spec = json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs", "readonly": true},
        "process": {"args": [format!("/{PROGRAM}"), "-info"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
        "linux": {"namespaces": namespaces},
    });
    std::fs::write(dir.join("config.json"), spec.to_string())?;
    Ok(dir.to_owned())
}
