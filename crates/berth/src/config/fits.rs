//! Does a configuration fit this node: are the programs there, are the places free?
//!
//! Asked before the daemon starts and by `berth config check`, so that both say the same. Handlers
//! are no part of it: a broken one concerns its own pods.

use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use super::{Config, Error};
use crate::find;
use crate::serve::group_id;

/// What a message says of a program that is not there.
const NO_PROGRAM: &str = "there is no such executable (looked beside berth and on PATH): install \
                          it, or give its absolute path";

/// Checks a configuration against the node; `place` tells where a key was set.
pub(super) fn check(config: &Config, place: &dyn Fn(&str) -> String) -> Result<(), Error> {
    let refuse = |key: &str, value: &dyn std::fmt::Debug, advice: &str| {
        let (at, key, value) = (place(key), key.to_owned(), format!("{value:?}"));
        Err(Error::Value { at, key, value, advice: advice.to_owned() })
    };
    if find::program(&config.helper).is_none() {
        return refuse("helper.path", &config.helper, NO_PROGRAM);
    }
    for (key, directory) in [("root", &config.root), ("state", &config.state)] {
        if let Some(in_the_way) = in_the_way(directory) {
            let advice = format!("{} is no directory: give another path", in_the_way.display());
            return refuse(key, directory, &advice);
        }
    }
    if let Some(in_the_way) = config.socket.parent().and_then(in_the_way) {
        let advice = format!("{} is no directory: give another path", in_the_way.display());
        return refuse("api.socket", &config.socket, &advice);
    }
    let there = std::fs::symlink_metadata(&config.socket);
    if there.is_ok_and(|there| !there.file_type().is_socket()) {
        let advice = "something that is no socket is there, and stays as it is: move it away, or \
                      give another path";
        return refuse("api.socket", &config.socket, advice);
    }
    if let Some(group) = &config.group
        && group_id(group).is_err()
    {
        return refuse("api.group", group, "/etc/group has no such group: add it, or name another");
    }
    Ok(())
}

/// What is at this path, or above it, and is no directory.
fn in_the_way(path: &Path) -> Option<&Path> {
    let there = path.ancestors().find(|above| std::fs::symlink_metadata(above).is_ok())?;
    (!there.is_dir()).then_some(there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_on_the_way_to_a_directory_is_found() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(in_the_way(&temp.path().join("new/directory")), None);
        assert_eq!(in_the_way(temp.path()), None);
        assert_eq!(in_the_way(&file), Some(file.as_path()));
        assert_eq!(in_the_way(&file.join("below")), Some(file.as_path()));
        let dangling = temp.path().join("dangling");
        std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
        assert_eq!(in_the_way(&dangling), Some(dangling.as_path()));
    }
}
