//! The mounts of a process: /proc/PID/mountinfo (proc(5)).

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::error::{Attempt, Error, Result};

/// How mounts made under a mount travel (mount_namespaces(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Propagation {
    /// Neither given nor taken.
    Private,
    /// Taken from the peer group it follows, not given.
    Slave,
    /// Given and taken within its peer group.
    Shared,
    /// Private, and cannot be bind mounted.
    Unbindable,
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its id, unique while it exists.
    pub id: u64,
    /// The id of the mount it is on.
    pub parent: u64,
    /// Major and minor number of its file system's device.
    pub device: (u32, u32),
    /// Which directory of the file system is mounted.
    pub root: PathBuf,
    /// Where, seen from the process's root.
    pub point: PathBuf,
    /// Options of this mount: `rw,nosuid,...`.
    pub options: String,
    /// The peer group it shares with, if it is shared.
    pub peer_group: Option<u64>,
    /// The peer group it follows, if it is a slave (it may be shared as well).
    pub master: Option<u64>,
    /// Whether it is unbindable.
    pub unbindable: bool,
    /// The file system's type.
    pub kind: String,
    /// What is mounted, as the file system calls it.
    pub source: OsString,
    /// Options of the file system: `rw,size=64k,...`.
    pub super_options: String,
}

impl Mount {
    /// How mounts travel; a mount that is both slave and shared counts as shared.
    pub fn propagation(&self) -> Propagation {
        match (self.peer_group, self.master, self.unbindable) {
            (Some(_), _, _) => Propagation::Shared,
            (None, Some(_), _) => Propagation::Slave,
            (None, None, true) => Propagation::Unbindable,
            (None, None, false) => Propagation::Private,
        }
    }

    /// Whether this mount (not its file system) is read-only.
    pub fn read_only(&self) -> bool {
        self.options.split(',').any(|o| o == "ro")
    }

    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|b| *b == b' ');
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        let number = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.parse::<u64>().ok();
        let id = number(fields.next()?)?;
        let parent = number(fields.next()?)?;
        let device = text(fields.next()?)?;
        let (major, minor) = device.split_once(':')?;
        let root = unescape(fields.next()?);
        let point = unescape(fields.next()?);
        let options = text(fields.next()?)?;
        let (mut peer_group, mut master, mut unbindable) = (None, None, false);
        loop {
            let tag = text(fields.next()?)?;
            match tag.split_once(':') {
                Some(("shared", group)) => peer_group = Some(group.parse().ok()?),
                Some(("master", group)) => master = Some(group.parse().ok()?),
                None if tag == "unbindable" => unbindable = true,
                None if tag == "-" => break,
                // propagate_from, and tags of kernels to come: readers skip them.
                _ => {}
            }
        }
        Some(Self {
            id,
            parent,
            device: (major.parse().ok()?, minor.parse().ok()?),
            root: root.into(),
            point: point.into(),
            options,
            peer_group,
            master,
            unbindable,
            kind: text(fields.next()?)?,
            source: unescape(fields.next()?),
            super_options: fields.next().and_then(text).unwrap_or_default(),
        })
    }
}

/// The kernel writes space, tab, newline and backslash of names as `\040` and so on.
fn unescape(bytes: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal =
            bytes.get(at + 1..at + 4).filter(|d| d.iter().all(|b| (b'0'..=b'7').contains(b)));
        match (bytes[at], octal) {
            (b'\\', Some(d)) => {
                let value = d.iter().fold(0_u32, |v, b| v * 8 + u32::from(b - b'0'));
                out.push((value & 0xff) as u8);
                at += 4;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    OsString::from_vec(out)
}

/// All mounts of a mount namespace, in the kernel's order: a later one covers an earlier one at
/// the same place.
#[derive(Clone, Debug, Default)]
pub struct Table {
    mounts: Vec<Mount>,
}

impl Table {
    /// The mounts this process sees.
    pub fn own() -> Result<Self> {
        // Not /proc/self: a thread may be in another mount namespace than its process.
        Self::read("/proc/thread-self/mountinfo")
    }

    /// The mounts another process sees.
    pub fn of(pid: crate::Pid) -> Result<Self> {
        Self::read(format!("/proc/{}/mountinfo", pid.as_raw_pid()))
    }

    fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::parse(&std::fs::read(path).on_path("read", path)?)
    }

    /// Reads the text of a mountinfo file.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let lines = bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        let mounts = lines.map(|line| {
            Mount::parse(line).ok_or_else(|| Error::Malformed {
                file: "mountinfo".to_owned(),
                text: String::from_utf8_lossy(line).into_owned(),
                reason: "not the fields of proc(5)",
            })
        });
        Ok(Self { mounts: mounts.collect::<Result<_>>()? })
    }

    /// All mounts.
    pub fn mounts(&self) -> &[Mount] {
        &self.mounts
    }

    /// The topmost mount exactly at this path (absolute, without symbolic links).
    pub fn at(&self, path: impl AsRef<Path>) -> Option<&Mount> {
        // Once without a slash at its end, then compared as bytes: there may be thousands.
        let path: PathBuf = path.as_ref().components().collect();
        let path = path.as_os_str().as_bytes();
        self.mounts.iter().rev().find(|mount| mount.point.as_os_str().as_bytes() == path)
    }

    /// The mount that a path (absolute, without symbolic links) lies on.
    pub fn containing(&self, path: impl AsRef<Path>) -> Option<&Mount> {
        let mut path = Some(path.as_ref());
        while let Some(now) = path {
            if let Some(mount) = self.at(now) {
                return Some(mount);
            }
            path = now.parent();
        }
        None
    }

    /// The mounts at or below a path, in an order in which they can be unmounted: the deepest
    /// first, and of several at one place the topmost.
    pub fn below(&self, path: impl AsRef<Path>) -> Vec<&Mount> {
        let path = path.as_ref();
        let mut found: Vec<_> =
            self.mounts.iter().rev().filter(|m| m.point.starts_with(path)).collect();
        found.sort_by_key(|mount| std::cmp::Reverse(mount.point.components().count()));
        found
    }

    /// Whether anything is mounted exactly at this path.
    pub fn is_mount_point(&self, path: impl AsRef<Path>) -> bool {
        self.at(path).is_some()
    }
}

/// Quotes a path the way the kernel does in mountinfo, for messages and tests.
pub fn escape(path: impl AsRef<Path>) -> String {
    let mut out = String::new();
    for byte in path.as_ref().as_os_str().as_bytes() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => out.push_str(&format!("\\{byte:03o}")),
            other => out.push(char::from(*other)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &[u8] = b"\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:5 / /dev rw,nosuid shared:2 master:7 - devtmpfs dev rw,size=10k
31 22 0:28 / /a\\040b ro,nosuid master:5 propagate_from:2 - tmpfs tm\\134p rw,mode=755
32 31 0:29 /sub /a\\040b/c rw unbindable - tmpfs tmpfs rw
33 22 0:30 / /dev rw - tmpfs none rw
";

    #[test]
    fn fields_are_read_and_unescaped() {
        let table = Table::parse(SAMPLE).unwrap();
        let mount = table.at("/a b").unwrap();
        assert_eq!((mount.id, mount.parent, mount.device), (31, 22, (0, 28)));
        assert_eq!((mount.kind.as_str(), mount.source.to_str()), ("tmpfs", Some("tm\\p")));
        assert_eq!((mount.master, mount.peer_group), (Some(5), None));
        assert_eq!(mount.propagation(), Propagation::Slave);
        assert!(mount.read_only());
        let sub = table.at("/a b/c").unwrap();
        assert_eq!(sub.root, Path::new("/sub"));
        assert_eq!(sub.propagation(), Propagation::Unbindable);
        assert_eq!(table.at("/").unwrap().propagation(), Propagation::Shared);
    }

    #[test]
    fn the_last_mount_at_a_place_is_the_one_seen() {
        let table = Table::parse(SAMPLE).unwrap();
        assert_eq!(table.at("/dev").unwrap().id, 33);
        assert_eq!(table.at("/dev/").unwrap().id, 33);
        assert_eq!(table.containing("/dev/null").unwrap().id, 33);
        assert_eq!(table.containing("/a b/cc").unwrap().id, 31);
        assert_eq!(table.containing("/etc/passwd").unwrap().id, 22);
    }

    #[test]
    fn below_does_not_take_neighbours_with_a_longer_name() {
        let table = Table::parse(SAMPLE).unwrap();
        let ids: Vec<_> = table.below("/a b").iter().map(|m| m.id).collect();
        assert_eq!(ids, [32, 31]);
        assert!(table.below("/a").is_empty());
    }

    #[test]
    fn a_broken_line_is_an_error_that_shows_it() {
        let error = Table::parse(b"22 1 254:0 / /\n").unwrap_err();
        assert!(error.to_string().contains("22 1 254:0"), "{error}");
    }

    #[test]
    fn escape_is_the_inverse_of_unescape() {
        let path = "/a b\\c\td";
        assert_eq!(unescape(escape(path).as_bytes()), OsString::from(path));
    }

    #[test]
    fn the_table_of_this_process_has_a_root() {
        assert!(Table::own().unwrap().is_mount_point("/"));
    }
}
