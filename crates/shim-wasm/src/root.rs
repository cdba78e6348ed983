//! The root file system with the container's mounts, and this process in it.

use std::fs::File;
use std::io;
use std::os::unix::fs::chroot;
use std::path::Path;

use berth_shim::process::{Error, Result};
use berth_shim::sys::mounts;
use berth_shim::{Bundle, Mount};

/// Mounts what the spec binds, and makes the root file system the root. Kernel file systems (`/proc`,
/// `/sys`, devices) are left out: WASI has no use for them, and what is not there cannot be misused.
///
/// Sources are taken hold of from outside; targets are resolved inside, where no symbolic link of the
/// image leads out. A device that an image brings along is a file that nobody can open: nothing else
/// would keep a module from the node's disks.
pub(crate) fn enter(bundle: &Bundle) -> Result<()> {
    let mut held = Vec::new();
    for mount in bundle.spec.mounts.iter().filter(|mount| mount.is_bind()) {
        held.push((mounts::copy(&mount.source, true)?, mount.source.is_dir(), mount));
    }
    let root = &bundle.root;
    // A mount of our own, whatever the daemon has put there.
    mounts::attach(mounts::copy(root, false)?, root)?;
    chroot(root)
        .and_then(|()| std::env::set_current_dir("/"))
        .map_err(|e| Error::file("make the root", root, e))?;
    mounts::remount_bind("/", flags(&["nodev", "nosuid"]))?;
    for (tree, directory, mount) in held {
        let Mount { destination, options, .. } = mount;
        place(destination, directory).map_err(|e| Error::file("make", destination, e))?;
        mounts::attach(tree, destination)?;
        mounts::remount_bind(destination, mounts::Options::parse(options).flags)?;
    }
    if bundle.spec.root.readonly {
        mounts::remount_bind("/", flags(&["ro", "nodev", "nosuid"]))?;
    }
    Ok(())
}

fn flags(options: &[&str]) -> mounts::Flags {
    mounts::Options::parse(options).flags
}

/// Makes what is to be mounted on.
fn place(path: &Path, directory: bool) -> io::Result<()> {
    if directory {
        return std::fs::create_dir_all(path);
    }
    // A fifo or a device of the image is not to be opened.
    if path.exists() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    File::options().create(true).append(true).open(path).map(drop)
}
