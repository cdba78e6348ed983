//! The built-in pause: the root file system of a sandbox that is a task. No image to pull, and none
//! to lose.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use berth_shim_client::Mount;

use super::{Context, Result, blocking};
use crate::convert::Fail as _;
use crate::layout::text;

/// What a container's own mounts lie on: the root file system itself is read-only.
const MOUNT_POINTS: [&str; 3] = ["proc", "dev", "sys"];

/// The mount that a shim makes for it; the files are made first, once in a daemon's life.
pub(super) async fn rootfs(context: &Context) -> Result<Mount> {
    let (directory, helper) = (context.layout().pause(), context.settings().helper.clone());
    let made = &context.shared.pause;
    let make = {
        let directory = directory.clone();
        || blocking(move || make(&directory, &helper))
    };
    made.get_or_try_init(make).await?;
    Ok(Mount {
        kind: "bind".into(),
        source: text(&directory),
        target: String::new(),
        options: vec!["rbind".into(), "ro".into()],
    })
}

/// The helper is the pause as well, and a static file: it is all that is in there.
fn make(directory: &Path, helper: &Path) -> Result<()> {
    for name in MOUNT_POINTS {
        let path = directory.join(name);
        std::fs::create_dir_all(&path).map_err(|e| ("make", path.as_path(), e))?;
    }
    let (new, program): (PathBuf, _) = (directory.join("pause.new"), directory.join("pause"));
    std::fs::copy(helper, &new).map_err(|e| ("copy the helper to", new.as_path(), e).fail())?;
    // Root of a pod's user namespace is somebody else here.
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&new, mode).map_err(|e| ("open to all", new.as_path(), e))?;
    // Who runs an older one goes on with it.
    std::fs::rename(&new, &program).map_err(|e| ("replace", program.as_path(), e))?;
    Ok(())
}
