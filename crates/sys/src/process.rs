//! What /proc tells about a process (proc(5)).
//!
//! A number may pass to another process between two reads: compare [`start_time`] before and
//! after, or hold a pidfd.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::CWD;
use rustix::process::Pid;

use crate::error::{Attempt, Error, Result};
use crate::signal::Signal;
use crate::small;
use crate::spawn::Exit;

/// The state letter of /proc/PID/stat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// R: running or ready to.
    Running,
    /// S: waiting, interruptible.
    Sleeping,
    /// D: waiting in the kernel; not even SIGKILL is taken before that ends (some waits of the
    /// kernel are killable and show D as well).
    DiskSleep,
    /// T: stopped by a signal, and frozen by a v2 cgroup.
    Stopped,
    /// t: stopped by a tracer.
    Traced,
    /// Z: exited, not yet reaped.
    Zombie,
    /// X: on its way out.
    Dead,
    /// I: an idle kernel thread.
    Idle,
    /// P: parked (kernel threads).
    Parked,
}

impl State {
    /// Its letter, as `ps` shows it.
    pub fn letter(self) -> char {
        match self {
            Self::Running => 'R',
            Self::Sleeping => 'S',
            Self::DiskSleep => 'D',
            Self::Stopped => 'T',
            Self::Traced => 't',
            Self::Zombie => 'Z',
            Self::Dead => 'X',
            Self::Idle => 'I',
            Self::Parked => 'P',
        }
    }

    fn from_letter(letter: &str) -> Option<Self> {
        Some(match letter {
            "R" => Self::Running,
            "S" => Self::Sleeping,
            "D" => Self::DiskSleep,
            "T" => Self::Stopped,
            "t" => Self::Traced,
            "Z" => Self::Zombie,
            "X" | "x" => Self::Dead,
            "I" => Self::Idle,
            "P" => Self::Parked,
            _ => return None,
        })
    }

    /// Whether nothing of it can run any more.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Zombie | Self::Dead)
    }
}

/// The facts of /proc/PID/stat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The process id.
    pub pid: i32,
    /// Its command name, 15 bytes at most.
    pub name: String,
    /// Its state.
    pub state: State,
    /// Its parent; 0 if that is outside this PID namespace.
    pub parent: i32,
    /// Its process group.
    pub group: i32,
    /// Its session.
    pub session: i32,
    /// Number of threads.
    pub threads: u32,
    /// When it started, in clock ticks since boot (usually 1/100 s).
    pub start_time: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name may hold spaces and parentheses: the last ')' ends it.
        let (head, tail) = text.rsplit_once(')')?;
        let (pid, name) = head.split_once(" (")?;
        let mut fields = tail.split_ascii_whitespace();
        Some(Self {
            pid: pid.parse().ok()?,
            name: name.to_owned(),
            state: State::from_letter(fields.next()?)?,
            parent: fields.next()?.parse().ok()?,
            group: fields.next()?.parse().ok()?,
            session: fields.next()?.parse().ok()?,
            // Fields count from 1 with the pid; session is 6, threads 20, start time 22.
            threads: fields.nth(13)?.parse().ok()?,
            start_time: fields.nth(1)?.parse().ok()?,
        })
    }
}

/// Reads /proc/PID/stat. NotFound if there is no such process.
pub fn stat(pid: Pid) -> Result<Stat> {
    let file = format!("/proc/{}/stat", pid.as_raw_pid());
    let malformed = |text: &str| Error::Malformed {
        file: file.clone(),
        text: text.chars().take(80).collect(),
        reason: "not the fields of proc(5)",
    };
    small::read_at(CWD, &file, |text| Stat::parse(text).ok_or_else(|| malformed(text)))
        .on_path("read", &file)?
}

/// When a process started, in clock ticks since boot: with the pid, its identity.
pub fn start_time(pid: Pid) -> Result<u64> {
    stat(pid).map(|stat| stat.start_time)
}

/// Where in the kernel a process waits, by function name; empty if it runs or the kernel keeps it
/// to itself.
pub fn wait_channel(pid: Pid) -> Result<String> {
    let file = format!("/proc/{}/wchan", pid.as_raw_pid());
    let name = small::read_at(CWD, &file, |text| text.trim().to_owned()).on_path("read", &file)?;
    Ok(if name == "0" { String::new() } else { name })
}

/// The file a process executes. NotFound also for zombies and kernel threads, which have none.
pub fn executable(pid: Pid) -> Result<PathBuf> {
    let file = format!("/proc/{}/exe", pid.as_raw_pid());
    std::fs::read_link(&file).on_path("read the link", &file)
}

/// Its arguments; empty for zombies and kernel threads.
pub fn arguments(pid: Pid) -> Result<Vec<OsString>> {
    let file = format!("/proc/{}/cmdline", pid.as_raw_pid());
    let bytes = std::fs::read(&file).on_path("read", &file)?;
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    Ok(bytes.split(|b| *b == 0).map(|arg| OsString::from_vec(arg.to_vec())).collect())
}

/// The children of a process, of all its threads.
///
/// Needs CONFIG_PROC_CHILDREN; exact only while the children do not change (proc(5)).
pub fn children(pid: Pid) -> Result<Vec<Pid>> {
    let dir = format!("/proc/{}/task", pid.as_raw_pid());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&dir).on_path("list", &dir)? {
        let entry = entry.on_path("list", &dir)?;
        // A thread that ended meanwhile has no children any more.
        let Ok(text) = std::fs::read_to_string(entry.path().join("children")) else { continue };
        found.extend(
            text.split_ascii_whitespace().filter_map(|n| n.parse().ok()).filter_map(Pid::from_raw),
        );
    }
    Ok(found)
}

/// All process ids of this PID namespace, as /proc lists them.
pub fn all() -> Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").on_path("list", "/proc")? {
        let entry = entry.on_path("list", "/proc")?;
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        found.extend(pid);
    }
    Ok(found)
}

/// Reaps every child of this process that has exited, known or handed over from below, and says
/// how each ended. For a subreaper or the first process of a PID namespace; a program that waits
/// for its children by pidfd must not use it beside that.
pub fn reap_all() -> Vec<(Pid, Exit)> {
    use rustix::process::{WaitOptions, wait};
    let mut reaped = Vec::new();
    // ECHILD ends it: there are none.
    while let Ok(Some((pid, status))) = rustix::io::retry_on_intr(|| wait(WaitOptions::NOHANG)) {
        let signal = status.terminating_signal().and_then(Signal::from_number);
        let code = status.exit_status().map(|code| Exit::Code((code & 0xff) as u8));
        reaped.extend(signal.map(Exit::Signal).or(code).map(|exit| (pid, exit)));
    }
    reaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_is_read_whole() {
        let text = "42 (a) b (c)) S 7 42 40 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 98765 1000 5 ...";
        let stat = Stat::parse(text).unwrap();
        assert_eq!(stat.name, "a) b (c)");
        assert_eq!((stat.pid, stat.parent, stat.group, stat.session), (42, 7, 42, 40));
        assert_eq!((stat.state, stat.threads, stat.start_time), (State::Sleeping, 3, 98765));
    }

    #[test]
    fn text_that_is_not_a_stat_is_refused() {
        for text in ["", "1", "1 (x", "1 (x) S", "1 (x) ? 1 1 1", "x (x) S 1 1 1"] {
            assert_eq!(Stat::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn this_process_is_found() {
        let own = rustix::process::getpid();
        let stat = stat(own).unwrap();
        assert_eq!(stat.pid, own.as_raw_pid());
        assert!(!stat.state.is_over());
        assert_eq!(executable(own).unwrap(), std::env::current_exe().unwrap());
        assert_eq!(arguments(own).unwrap()[0], std::env::args_os().next().unwrap());
        assert!(all().unwrap().contains(&own));
    }
}
