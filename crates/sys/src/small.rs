//! Small files of /proc, /sys and cgroups, read with one open and one read where they fit.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::str::FromStr;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::path::Arg;

use crate::error::{Attempt, Error, Result};

/// Reads a file into a buffer on the stack with one read and hands the text to `parse`.
///
/// `name` may be relative to `dir`. Up to 8 KiB are read: enough for every single-record file of
/// cgroups and for /proc/PID/stat (seq_file hands such a record out whole). Files of many records
/// (cgroup.procs, mountinfo) need a loop: not here. Bytes that are not UTF-8 end the text.
pub fn read_at<T>(dir: impl AsFd, name: impl Arg, parse: impl FnOnce(&str) -> T) -> io::Result<T> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    let mut space = [0_u8; 8192];
    let filled = rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut space))?;
    let bytes = &space[..filled];
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or(""),
    };
    Ok(parse(text))
}

/// Reads a file that holds one number.
pub fn read_number<T: FromStr>(path: &Path) -> Result<T> {
    read_at(CWD, path, |text| {
        text.trim().parse().map_err(|_| Error::Malformed {
            file: path.display().to_string(),
            text: text.trim().chars().take(64).collect(),
            reason: "not a number in range",
        })
    })
    .on_path("read", path)?
}

/// Writes a short value to a file of the kernel, in one write.
///
/// The file must exist; it is not truncated (files of sysfs and cgroups take whole values).
pub fn write_at(dir: impl AsFd, name: impl Arg, value: &str) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    let count = rustix::io::retry_on_intr(|| rustix::io::write(&file, value.as_bytes()))?;
    if count == value.len() { Ok(()) } else { Err(io::Error::from(io::ErrorKind::WriteZero)) }
}

/// The id of the current boot (`/proc/sys/kernel/random/boot_id`), without the newline.
pub fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    read_at(CWD, path, |text| text.trim().to_owned()).on_path("read", path)
}
