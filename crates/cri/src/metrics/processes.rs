//! What processes have open, from /proc. A process that ends meanwhile counts as nothing.

use std::path::Path;

/// So many descriptors of a container are looked at for sockets: what has more must not make the
/// figures of the whole node late.
const LOOKED_AT: u64 = 20_000;

/// What the processes of a cgroup have open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Open {
    /// Descriptors.
    pub(super) files: u64,
    /// Of these, sockets: among the first 20,000.
    pub(super) sockets: u64,
}

/// Counts what these processes have open.
pub(super) fn open(proc: &Path, pids: impl Iterator<Item = i32>) -> Open {
    let mut open = Open::default();
    for pid in pids {
        let entries = std::fs::read_dir(proc.join(format!("{pid}/fd")));
        for entry in entries.into_iter().flatten().flatten() {
            open.files += 1;
            if open.files <= LOOKED_AT {
                let link = std::fs::read_link(entry.path());
                let is_socket = |to: &Path| to.to_str().is_some_and(|to| to.starts_with("socket:"));
                open.sockets += u64::from(link.is_ok_and(|to| is_socket(&to)));
            }
        }
    }
    open
}

/// Threads of these processes.
pub(super) fn threads(proc: &Path, pids: impl Iterator<Item = i32>) -> u64 {
    let of = |pid: i32| {
        let status = std::fs::read_to_string(proc.join(format!("{pid}/status"))).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("Threads:"))?;
        line.trim().parse::<u64>().ok()
    };
    pids.filter_map(of).sum()
}

/// The soft limit of open files of a process.
pub(super) fn open_files_limit(proc: &Path, pid: u32) -> Option<u64> {
    let limits = std::fs::read_to_string(proc.join(format!("{pid}/limits"))).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        limit => limit.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn sockets_threads_and_limits_of_this_process_are_found() {
        let proc = Path::new("/proc");
        let pid = std::process::id();
        let own = i32::try_from(pid).unwrap();
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        let open = open(proc, [own, i32::MAX].into_iter());
        assert!(open.sockets >= 2 && open.files > open.sockets, "{open:?}");
        assert!(a.as_raw_fd() > 2);
        assert!(threads(proc, [own, i32::MAX].into_iter()) >= 1);
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        assert_eq!(open_files_limit(proc, pid), limit.or(Some(u64::MAX)));
        assert_eq!(open_files_limit(proc, u32::MAX), None);
    }
}
