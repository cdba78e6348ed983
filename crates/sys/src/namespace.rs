//! Namespaces: making, entering, pinning by bind mount.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags};

use crate::error::{Attempt, Error, Result};
use crate::mounts;

/// The kinds of namespace of Linux (namespaces(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Namespace {
    /// User and group ids, capabilities.
    User,
    /// Network devices, addresses, ports.
    Net,
    /// System V and POSIX message queues, shared memory.
    Ipc,
    /// Host and domain name.
    Uts,
    /// Process ids.
    Pid,
    /// Mounts.
    Mount,
    /// The root of the cgroup tree that is seen.
    Cgroup,
}

impl Namespace {
    /// All kinds.
    pub const ALL: [Self; 7] =
        [Self::User, Self::Net, Self::Ipc, Self::Uts, Self::Pid, Self::Mount, Self::Cgroup];

    /// Its file name in /proc/PID/ns.
    pub const fn file(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Net => "net",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Pid => "pid",
            Self::Mount => "mnt",
            Self::Cgroup => "cgroup",
        }
    }

    /// Its CLONE_NEW* flag.
    pub(crate) const fn flag(self) -> u32 {
        (match self {
            Self::User => libc::CLONE_NEWUSER,
            Self::Net => libc::CLONE_NEWNET,
            Self::Ipc => libc::CLONE_NEWIPC,
            Self::Uts => libc::CLONE_NEWUTS,
            Self::Pid => libc::CLONE_NEWPID,
            Self::Mount => libc::CLONE_NEWNS,
            Self::Cgroup => libc::CLONE_NEWCGROUP,
        }) as u32
    }
}

/// Moves the calling thread into new namespaces of these kinds.
///
/// A user namespace needs a process of one thread. A new PID namespace holds only children made
/// afterwards.
pub fn unshare(kinds: &[Namespace]) -> Result<()> {
    let bits = kinds.iter().fold(0, |bits, kind| bits | kind.flag());
    let flags = UnshareFlags::from_bits_retain(bits);
    // SAFETY: rustix marks this unsafe because of CLONE_FILES, which would leave descriptors
    // of other threads invalid here; `flag()` yields CLONE_NEW* bits only.
    #[allow(unsafe_code)]
    unsafe { rustix::thread::unshare_unsafe(flags) }.on_thing("unshare", format!("{kinds:?}"))
}

/// What new namespaces are furnished with.
#[derive(Clone, Copy, Debug)]
pub struct Furnishing<'a> {
    /// The host name, for a UTS namespace.
    pub hostname: Option<&'a str>,
    /// Sysctls by name (see [`crate::sysctl`]).
    pub sysctls: &'a BTreeMap<String, String>,
    /// Whether to bring `lo` up.
    pub loopback: bool,
}

/// Moves the calling thread into new namespaces of these kinds and furnishes them; a user namespace
/// among them is one that it is in already. Returns the sysctls that were left out.
///
/// A thread of a larger process should end with this: it is not where its siblings are any more.
///
/// # Errors
/// Invalid if a sysctl belongs to none of them; else the kernel's answer.
pub fn make(kinds: &[Namespace], furnishing: &Furnishing<'_>) -> Result<Vec<String>> {
    let rest: Vec<_> = kinds.iter().copied().filter(|kind| *kind != Namespace::User).collect();
    if !rest.is_empty() {
        unshare(&rest)?;
    }
    if let Some(hostname) = furnishing.hostname {
        rustix::system::sethostname(hostname.as_bytes()).on_thing("set the hostname", hostname)?;
    }
    let skipped = crate::sysctl::write_all(furnishing.sysctls, kinds)?;
    if furnishing.loopback {
        crate::netdev::loopback_up()?;
    }
    Ok(skipped)
}

/// Moves the calling thread into an existing namespace.
pub fn enter(namespace: impl AsFd, kind: Namespace) -> Result<()> {
    let flag = ThreadNameSpaceType::from_bits_retain(kind.flag());
    let fd = namespace.as_fd();
    setns(fd, flag).on_thing("enter the namespace", kind.file())
}

fn setns(fd: std::os::fd::BorrowedFd<'_>, flag: ThreadNameSpaceType) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: setns(2) takes two integers; the descriptor is borrowed for the call.
    #[allow(unsafe_code)]
    let answer = unsafe { libc::setns(fd.as_raw_fd(), flag.bits() as libc::c_int) };
    if answer == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Opens a namespace by path: a pin, or a file of /proc/PID/ns.
pub fn open(path: impl AsRef<Path>) -> Result<OwnedFd> {
    let path = path.as_ref();
    rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())
        .on_path("open the namespace", path)
}

/// Opens the namespace the calling thread is in.
pub fn open_own(kind: Namespace) -> Result<OwnedFd> {
    open(format!("/proc/thread-self/ns/{}", kind.file()))
}

/// Whether two namespace files name the same namespace.
pub fn same(a: impl AsRef<Path>, b: impl AsRef<Path>) -> Result<bool> {
    let id = |path: &Path| -> Result<(u64, u64)> {
        let stat = rustix::fs::stat(path).on_path("stat the namespace", path)?;
        Ok((stat.st_dev, stat.st_ino))
    };
    Ok(id(a.as_ref())? == id(b.as_ref())?)
}

/// Whether `path` is a pinned namespace: a file of the kernel's nsfs mounted there.
pub fn is_pinned(path: impl AsRef<Path>) -> Result<bool> {
    // NSFS_MAGIC of linux/magic.h.
    const NSFS_MAGIC: rustix::fs::FsWord = 0x6e73_6673;
    match rustix::fs::statfs(path.as_ref()) {
        Ok(stat) => Ok(stat.f_type == NSFS_MAGIC),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(false),
        Err(errno) => Err(Error::path("statfs", path, errno)),
    }
}

/// Keeps a namespace alive by binding `source` (a file of /proc/PID/ns) on `pin`, which is made.
///
/// The directory of `pin` must exist. Whatever was pinned there before is unpinned first.
pub fn pin(source: impl AsRef<Path>, pin: impl AsRef<Path>) -> Result<()> {
    let (source, pin) = (source.as_ref(), pin.as_ref());
    unpin(pin)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDONLY | OFlags::CLOEXEC;
    drop(rustix::fs::openat(CWD, pin, flags, Mode::RUSR).on_path("create the pin", pin)?);
    mounts::bind(source, pin).inspect_err(|_| {
        // Best effort: the bind's error is the one to report.
        let _ = std::fs::remove_file(pin);
    })
}

/// Lets go of a pinned namespace: everything mounted on `pin` goes, then the file. Absent is fine.
pub fn unpin(pin: impl AsRef<Path>) -> Result<()> {
    let pin = pin.as_ref();
    mounts::unmount_all(pin)?;
    match rustix::fs::unlinkat(CWD, pin, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(()),
        Err(errno) => Err(Error::path("unlink the pin", pin, errno)),
    }
}
