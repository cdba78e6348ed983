//! Names of block devices.

use std::collections::HashMap;
use std::path::Path;

use rustix::fs::{major, makedev, minor};

/// Names by number, looked up once for each list.
#[derive(Default)]
pub(super) struct Devices(HashMap<u64, String>);

impl Devices {
    /// `/dev/sda` for 8:0; the numbers themselves where no device has them.
    pub(super) fn name(&mut self, major: u32, minor: u32) -> &str {
        self.0.entry(makedev(major, minor)).or_insert_with(|| {
            let link = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok();
            let name = link.as_ref().and_then(|link| link.file_name()?.to_str());
            name.map_or_else(|| format!("{major}:{minor}"), |name| format!("/dev/{name}"))
        })
    }
}

/// The file system that writable layers are on.
pub(super) struct Disk {
    /// Its device.
    pub(super) device: String,
    /// Its size in bytes.
    pub(super) bytes: u64,
    /// Its inodes.
    pub(super) inodes: u64,
    /// Of these, free ones.
    pub(super) inodes_free: u64,
}

impl Disk {
    /// Looks at a directory of our own.
    pub(super) fn of(directory: &Path, devices: &mut Devices) -> Option<Self> {
        let device = rustix::fs::stat(directory).ok()?.st_dev;
        let size = rustix::fs::statvfs(directory).ok()?;
        Some(Self {
            device: devices.name(major(device), minor(device)).to_owned(),
            bytes: size.f_blocks.saturating_mul(size.f_frsize),
            inodes: size.f_files,
            inodes_free: size.f_ffree,
        })
    }
}
