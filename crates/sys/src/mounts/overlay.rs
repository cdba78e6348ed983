//! Overlay mounts.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};

use super::Flags;
use crate::error::{Attempt, Error, Result};

/// An overlay to be mounted (Documentation/filesystems/overlayfs.rst).
#[derive(Clone, Debug, Default)]
pub struct Overlay {
    /// The layers below, the topmost first.
    pub lower: Vec<PathBuf>,
    /// The writable layer and its work directory, on one file system; without them the overlay
    /// is read-only and needs two lower layers at least.
    pub upper: Option<(PathBuf, PathBuf)>,
    /// `volatile` (Linux 5.10): no syncing, so an unmount does not write the disk out. After a
    /// power cut the upper layer is lost: the kernel refuses to mount it again while
    /// `work/incompat/volatile` exists.
    pub volatile: bool,
    /// Further options of overlayfs, each `name` or `name=value`.
    pub options: Vec<String>,
}

impl Overlay {
    /// Mounts it on `target`.
    ///
    /// By the new mount API with one `lowerdir+` per layer where the kernel has it (6.5), so any
    /// number of layers goes; otherwise by mount(2), whose options must fit in one page.
    pub fn mount(&self, target: impl AsRef<Path>) -> Result<()> {
        let target = target.as_ref();
        match self.mount_by_parts(target) {
            // EINVAL: lowerdir+ is unknown (or an option is wrong: then mount(2) says so again).
            Err(Errno::NOSYS | Errno::INVAL | Errno::NOTSUP) => self.mount_by_string(target),
            other => other.on_path("mount an overlay on", target),
        }
    }

    fn mount_by_parts(&self, target: &Path) -> rustix::io::Result<()> {
        let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let set = |key: &str, value: &Path| {
            rustix::mount::fsconfig_set_string(context.as_fd(), key, value)
        };
        set("source", "overlay".as_ref())?;
        for layer in &self.lower {
            set("lowerdir+", layer)?;
        }
        if let Some((upper, work)) = &self.upper {
            set("upperdir", upper)?;
            set("workdir", work)?;
        }
        for option in self.volatile.then_some("volatile").into_iter().chain(self.options()) {
            match option.split_once('=') {
                Some((key, value)) => set(key, value.as_ref())?,
                None => rustix::mount::fsconfig_set_flag(context.as_fd(), option)?,
            }
        }
        rustix::mount::fsconfig_create(context.as_fd())?;
        let mount = rustix::mount::fsmount(
            context.as_fd(),
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        )?;
        let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(mount.as_fd(), "", CWD, target, empty)
    }

    fn mount_by_string(&self, target: &Path) -> Result<()> {
        let data = self.data();
        let Some(text) = data.to_str() else {
            return Err(Error::path(
                "mount an overlay with names that are not UTF-8 on",
                target,
                Errno::INVAL,
            ));
        };
        super::mount("overlay", target, "overlay", Flags::empty(), text)
    }

    fn options(&self) -> impl Iterator<Item = &str> {
        self.options.iter().map(String::as_str)
    }

    /// The option string for mount(2): what goes into a list of mounts for a shim. Commas, colons
    /// and backslashes of paths are escaped as overlayfs wants them.
    pub fn data(&self) -> std::ffi::OsString {
        let mut out = Vec::from(&b"lowerdir="[..]);
        for (index, layer) in self.lower.iter().enumerate() {
            if index > 0 {
                out.push(b':');
            }
            escape(layer.as_os_str(), &mut out);
        }
        if let Some((upper, work)) = &self.upper {
            out.extend(b",upperdir=");
            escape(upper.as_os_str(), &mut out);
            out.extend(b",workdir=");
            escape(work.as_os_str(), &mut out);
        }
        for option in self.volatile.then_some("volatile").into_iter().chain(self.options()) {
            out.push(b',');
            out.extend(option.as_bytes());
        }
        std::os::unix::ffi::OsStringExt::from_vec(out)
    }
}

fn escape(path: &OsStr, out: &mut Vec<u8>) {
    for byte in path.as_bytes() {
        if matches!(byte, b'\\' | b',' | b':') {
            out.push(b'\\');
        }
        out.push(*byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_string_escapes_what_overlayfs_splits_at() {
        let overlay = Overlay {
            lower: vec!["/a:b".into(), "/c,d".into()],
            upper: Some(("/u".into(), "/w".into())),
            volatile: true,
            options: vec!["index=off".into()],
        };
        assert_eq!(
            overlay.data(),
            "lowerdir=/a\\:b:/c\\,d,upperdir=/u,workdir=/w,volatile,index=off"
        );
    }
}
