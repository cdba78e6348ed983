//! The device nodes of the host, for privileged containers.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use berth_oci::facts::DeviceNode;
use berth_oci::spec::DeviceKind;

/// Directories of /dev that are file systems of their own, made for each container anew, and
/// nodes that a container has of its own.
const LEFT_OUT: [&str; 6] =
    ["/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd", "/dev/hugepages", "/dev/console"];

/// Every node below /dev. It is a file system of the kernel's: nothing here waits.
pub(crate) fn all() -> Vec<DeviceNode> {
    let mut found = Vec::new();
    walk(Path::new("/dev"), &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn walk(directory: &Path, found: &mut Vec<DeviceNode>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if LEFT_OUT.iter().any(|left_out| path == Path::new(left_out)) {
            continue;
        }
        let Ok(metadata) = std::fs::symlink_metadata(&path) else { continue };
        let kind = metadata.file_type();
        if kind.is_dir() {
            walk(&path, found);
        } else if kind.is_char_device() || kind.is_block_device() {
            let rdev = metadata.rdev();
            found.push(DeviceNode {
                path,
                kind: if kind.is_block_device() { DeviceKind::Block } else { DeviceKind::Char },
                major: i64::from(rustix::fs::major(rdev)),
                minor: i64::from(rustix::fs::minor(rdev)),
                mode: metadata.mode() & 0o7777,
                uid: metadata.uid(),
                gid: metadata.gid(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_null_device_is_1_3_and_nothing_of_pts_is_there() {
        let all = all();
        let null = all.iter().find(|node| node.path == Path::new("/dev/null")).unwrap();
        assert_eq!((null.kind, null.major, null.minor), (DeviceKind::Char, 1, 3));
        assert!(all.iter().all(|node| !node.path.starts_with("/dev/pts")));
    }
}
