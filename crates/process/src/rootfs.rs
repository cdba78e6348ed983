//! The mounts of a task's root file system, as the request lists them.

use std::path::{Path, PathBuf};

use berth_sys::mounts::{self, Options, Overlay};

use crate::error::{Error, Result};

/// mount(2) takes at most a page of options; an image of many layers needs more.
const PAGE: usize = 4000;

/// One mount of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountRequest {
    /// `overlay`, `bind`, …
    pub kind: String,
    /// What to mount.
    pub source: String,
    /// Where below the root file system; usually empty.
    pub target: String,
    /// Options as in fstab.
    pub options: Vec<String>,
}

/// Mounts them in order on `root`. What an earlier try left there goes first; on failure nothing
/// stays.
pub(crate) fn mount(requests: &[MountRequest], root: &Path) -> Result<()> {
    if requests.is_empty() {
        return Ok(());
    }
    std::fs::create_dir_all(root).map_err(|e| Error::file("make", root, e))?;
    if mounts::is_mounted(root)? || !is_empty(root)? {
        unmount(root)?;
    }
    for request in requests {
        let target = match request.target.trim_start_matches('/') {
            "" => root.to_owned(),
            below => root.join(below),
        };
        if let Err(error) = mount_one(request, &target) {
            // The first error is the one to report.
            let _ = unmount(root);
            return Err(error);
        }
    }
    Ok(())
}

/// Unmounts everything at and below `root`. Nothing there is fine.
pub(crate) fn unmount(root: &Path) -> Result<()> {
    match std::fs::canonicalize(root) {
        Ok(root) => {
            // Takes what is mounted below along. Only without it there may be anything else left,
            // and then the table of mounts, which grows with the node, is worth reading.
            mounts::unmount_all(&root)?;
            if !is_empty(&root)? {
                mounts::unmount_below(root)?;
            }
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::file("resolve", root, error)),
    }
}

fn is_empty(directory: &Path) -> Result<bool> {
    let mut entries =
        std::fs::read_dir(directory).map_err(|e| Error::file("list", directory, e))?;
    Ok(entries.next().is_none())
}

fn mount_one(request: &MountRequest, target: &Path) -> Result<()> {
    let options = Options::parse(&request.options);
    if request.kind == "overlay" && options.data.len() > PAGE {
        return Ok(overlay(&options).mount(target)?);
    }
    Ok(mounts::mount_as(&request.kind, &request.source, target, &options)?)
}

/// Takes the option string of an overlay apart, so that it need not fit in a page.
fn overlay(options: &Options) -> Overlay {
    let mut overlay = Overlay::default();
    let (mut upper, mut work) = (None, None);
    for option in split(&options.data, ',') {
        match option.split_once('=') {
            Some(("lowerdir", layers)) => {
                overlay.lower = split(layers, ':').map(unescaped).collect();
            }
            Some(("lowerdir+", layer)) => overlay.lower.push(unescaped(layer)),
            Some(("upperdir", dir)) => upper = Some(unescaped(dir)),
            Some(("workdir", dir)) => work = Some(unescaped(dir)),
            _ if option == "volatile" => overlay.volatile = true,
            _ => overlay.options.push(option.to_owned()),
        }
    }
    overlay.upper = upper.zip(work);
    overlay
}

/// Splits at separators that no backslash escapes.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    text.split(move |c| {
        let here = c == separator && !escaped;
        escaped = c == '\\' && !escaped;
        here
    })
}

fn unescaped(text: &str) -> PathBuf {
    let mut plain = String::with_capacity(text.len());
    let mut escaped = false;
    for c in text.chars() {
        if c == '\\' && !escaped {
            escaped = true;
            continue;
        }
        plain.push(c);
        escaped = false;
    }
    plain.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_of_an_overlay_come_apart() {
        let options = Options::parse([
            r"lowerdir=/l/1:/l/with\:colon:/l/with\,comma",
            "upperdir=/u",
            "workdir=/w",
            "volatile",
            "index=off",
        ]);
        let overlay = overlay(&options);
        let lower: Vec<PathBuf> =
            ["/l/1", "/l/with:colon", "/l/with,comma"].map(PathBuf::from).into();
        assert_eq!(overlay.lower, lower);
        assert_eq!(overlay.upper, Some(("/u".into(), "/w".into())));
        assert!(overlay.volatile);
        assert_eq!(overlay.options, ["index=off"]);
    }
}
