//! A path that a volume supplies, shown with the ids of a user namespace.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use berth_sys::mounts::{self, Attributes};
use berth_sys::namespace;
use serde::Deserialize;

use crate::Done;
use crate::error::{Error, Result};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    /// What is shown: a directory or a file.
    source: PathBuf,
    /// Where; it must not be there yet.
    target: PathBuf,
    /// The pinned user namespace whose ids the files get.
    user: PathBuf,
}

/// Binds the source, with all that is mounted below it, and maps the ids of the mount it lies on
/// (Linux 5.12, and a file system that can be mapped).
pub(crate) fn idmap(request: Request) -> Result<Done> {
    let Request { source, target, user } = request;
    let user = namespace::open(&user)?;
    let copy = mounts::copy(&source, true)?;
    let attributes = Attributes { user_namespace: Some(user.as_fd()), ..Attributes::default() };
    mounts::set_attributes(copy.as_fd(), "", &attributes, false)?;
    let kind = std::fs::metadata(&source)
        .map_err(|error| Error::io(format!("look at {}", source.display()), error))?;
    let made = match kind.is_dir() {
        true => std::fs::create_dir(&target),
        false => File::create_new(&target).map(drop),
    };
    made.map_err(|error| Error::io(format!("make {}", target.display()), error))?;
    mounts::attach(&copy, &target)?;
    Ok(Done {})
}
