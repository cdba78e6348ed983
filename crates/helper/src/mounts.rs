//! Mounting and unmounting at places that a pod or a volume supplies.

use std::path::{Path, PathBuf};

use berth_sys::mounts::{self, Options};
use serde::{Deserialize, Serialize};

use crate::Done;
use crate::error::{Error, Result};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Unmount {
    /// Detach everything mounted at or below this directory.
    #[serde(default)]
    below: Option<PathBuf>,
    /// Detach everything mounted exactly here.
    #[serde(default)]
    paths: Vec<PathBuf>,
}

#[derive(Serialize)]
pub(crate) struct Unmounted {
    /// How many mounts went from at or below the directory.
    gone: usize,
}

/// Detaches mounts; absent is fine. All are tried, and the first failure is the answer.
pub(crate) fn unmount(request: Unmount) -> Result<Unmounted> {
    let mut failed = None;
    let mut gone = 0;
    for path in &request.paths {
        if let Err(error) = mounts::unmount_all(path) {
            failed.get_or_insert(error);
        }
    }
    if let Some(directory) = &request.below {
        match mounts::unmount_below(as_in_mountinfo(directory)?) {
            Ok(count) => gone = count,
            Err(error) => drop(failed.get_or_insert(error)),
        }
    }
    failed.map_or(Ok(Unmounted { gone }), |error| Err(error.into()))
}

/// mountinfo shows paths without symbolic links. The last part stays as it is: it may be a dead
/// mount, which must not be looked at.
fn as_in_mountinfo(path: &Path) -> Result<PathBuf> {
    let refuse = |reason| {
        let value = path.display().to_string();
        Err(Error::Refused { what: "directory to unmount below", value, reason })
    };
    if !path.is_absolute() {
        return refuse("must be an absolute path");
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return refuse("is the root, or ends in ..");
    };
    match parent.canonicalize() {
        Ok(parent) => Ok(parent.join(name)),
        // Where the directory above is gone, nothing can be mounted.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(path.to_owned()),
        Err(source) => Err(Error::io(format!("resolve {}", parent.display()), source)),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mount {
    mounts: Vec<One>,
}

/// One mount, as in the `mounts` of an OCI bundle.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct One {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    source: PathBuf,
    target: PathBuf,
    #[serde(default)]
    options: Vec<String>,
}

/// Makes all mounts in order, or none: after a failure those made are detached again.
pub(crate) fn mount(request: Mount) -> Result<Done> {
    for (made, one) in request.mounts.iter().enumerate() {
        let options = Options::parse(&one.options);
        let result = mounts::mount_as(&one.kind, &one.source, &one.target, &options);
        if let Err(error) = result {
            for earlier in request.mounts[..made].iter().rev() {
                // The error that led here is the one to report.
                let _ = mounts::detach(&earlier.target);
            }
            return Err(error.into());
        }
    }
    Ok(Done {})
}
