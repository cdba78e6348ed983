//! Who is in a cgroup, and removing it.

use std::collections::BTreeSet;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use berth_sys::{Pid, process, small};
use rustix::fs::CWD;

use crate::Cgroup;
use crate::error::{Error, Result};

/// A process that could not be seen dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remaining {
    /// Its process id.
    pub pid: i32,
    /// Its command name.
    pub name: String,
    /// Its state letter, as `ps` shows it (`D`: waits in the kernel and cannot be killed now).
    pub state: char,
    /// The function of the kernel it waits in; empty if unknown.
    pub wait_channel: String,
}

impl Remaining {
    fn of(pid: Pid) -> Option<Self> {
        let stat = process::stat(pid).ok()?;
        if stat.state.is_over() {
            return None;
        }
        let wait_channel = process::wait_channel(pid).unwrap_or_default();
        Some(Self { pid: stat.pid, name: stat.name, state: stat.state.letter(), wait_channel })
    }

    /// The living among the members of these directories.
    pub(crate) fn below(directories: &[PathBuf]) -> Result<Vec<Self>> {
        Ok(below(directories)?.into_iter().filter_map(Self::of).collect())
    }
}

impl fmt::Display for Remaining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} ({}) in state {}", self.pid, self.name, self.state)?;
        if self.wait_channel.is_empty() {
            return Ok(());
        }
        write!(f, " waiting in {}", self.wait_channel)
    }
}

/// All processes in these directories and below, each once.
pub(crate) fn below(directories: &[PathBuf]) -> Result<Vec<Pid>> {
    let mut found = BTreeSet::new();
    for directory in directories {
        for cgroup in tree(directory)? {
            let file = cgroup.join("cgroup.procs");
            let mut add = |text: &str| {
                found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
                text.len()
            };
            let all = match small::read_at(CWD, &file, &mut add) {
                // The kernel hands out a page at a time: there may be more.
                Ok(length) if length > 4000 => {
                    std::fs::read_to_string(&file).map(|text| add(&text))
                }
                other => other,
            };
            match all {
                Ok(_) => {}
                // Gone meanwhile; or threaded (v2): then a cgroup above lists the process.
                Err(error) if gone(&error) || is(&error, rustix::io::Errno::OPNOTSUPP) => {}
                Err(error) => return Err(Error::file("read", file, error)),
            }
        }
    }
    // A 0 stands for a process outside this PID namespace.
    Ok(found.into_iter().filter_map(Pid::from_raw).collect())
}

/// Whether nobody is in these directories and below. Looks twice: one look at several cgroups is no
/// snapshot, and a process may be on its way from one to another.
pub(crate) fn none(directories: &[PathBuf]) -> Result<bool> {
    Ok(below(directories)?.is_empty() && below(directories)?.is_empty())
}

/// The directory and all below it, each before those below it.
pub(crate) fn tree(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut all = vec![directory.to_owned()];
    let mut at = 0;
    while at < all.len() {
        // A directory of two links holds no other: the common case, without listing it.
        if all[at].metadata().is_ok_and(|data| data.nlink() == 2) {
            at += 1;
            continue;
        }
        let entries = match std::fs::read_dir(&all[at]) {
            Ok(entries) => entries,
            Err(error) if gone(&error) => {
                at += 1;
                continue;
            }
            Err(error) => return Err(Error::file("list", &all[at], error)),
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                all.push(entry.path());
            }
        }
        at += 1;
    }
    Ok(all)
}

/// No caller may freeze or kill itself.
pub(crate) fn refuse_own(cgroup: &Cgroup, processes: &[Pid]) -> Result<()> {
    let own = rustix::process::getpid();
    if processes.contains(&own) {
        return Err(Error::Own { name: cgroup.path().to_string(), pid: own.as_raw_pid() });
    }
    Ok(())
}

/// Removes trees of cgroups, the deepest first.
pub(crate) fn remove(directories: &[PathBuf], limit: Duration) -> Result<()> {
    let end = Instant::now() + limit;
    for directory in directories {
        let mut pause = Duration::from_micros(500);
        while let Some(busy) = remove_once(directory)? {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let who = Remaining::below(std::slice::from_ref(&busy))?;
                let who = who.iter().map(Remaining::to_string).collect::<Vec<_>>().join(", ");
                let who = if who.is_empty() { "none that is alive".to_owned() } else { who };
                return Err(Error::Populated { path: busy, who });
            }
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
    Ok(())
}

/// Removes what it can; the first directory that is busy is the answer.
fn remove_once(directory: &Path) -> Result<Option<PathBuf>> {
    let mut busy = None;
    for cgroup in tree(directory)?.into_iter().rev() {
        match std::fs::remove_dir(&cgroup) {
            Ok(()) => {}
            Err(error) if gone(&error) => {}
            Err(error) if is(&error, rustix::io::Errno::BUSY) => {
                busy.get_or_insert(cgroup);
            }
            Err(error) => return Err(Error::file("remove", cgroup, error)),
        }
    }
    Ok(busy)
}

/// ENODEV: the directory is open or listed, but its cgroup was removed meanwhile.
pub(crate) fn gone(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound || is(error, rustix::io::Errno::NODEV)
}

fn is(error: &std::io::Error, errno: rustix::io::Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}
