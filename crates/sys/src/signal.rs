//! Signals by name and number.
//!
//! The numbers are those of Linux on x86-64 and arm64 (signal(7)). Real-time signals count from
//! SIGRTMIN = 34 as glibc and musl show it: 32 and 33 belong to the C library's threads.

use std::fmt;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::str::FromStr;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::{Attempt, Error, Result};

/// A signal number from 1 to 64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(i32);

const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// Names in the order of their numbers, from 1.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// Second names that are in use for the same numbers.
const ALIASES: [(&str, i32); 4] = [("IOT", 6), ("CLD", 17), ("POLL", 29), ("UNUSED", 31)];

impl Signal {
    /// SIGHUP.
    pub const HUP: Self = Self(1);
    /// SIGINT.
    pub const INT: Self = Self(2);
    /// SIGQUIT.
    pub const QUIT: Self = Self(3);
    /// SIGKILL.
    pub const KILL: Self = Self(9);
    /// SIGUSR1.
    pub const USR1: Self = Self(10);
    /// SIGUSR2.
    pub const USR2: Self = Self(12);
    /// SIGPIPE.
    pub const PIPE: Self = Self(13);
    /// SIGTERM.
    pub const TERM: Self = Self(15);
    /// SIGCHLD.
    pub const CHLD: Self = Self(17);
    /// SIGCONT.
    pub const CONT: Self = Self(18);
    /// SIGSTOP.
    pub const STOP: Self = Self(19);
    /// SIGWINCH.
    pub const WINCH: Self = Self(28);

    /// The signal of this number, if there is one.
    pub const fn from_number(number: i32) -> Option<Self> {
        if number >= 1 && number <= RTMAX { Some(Self(number)) } else { None }
    }

    /// Its number.
    pub const fn number(self) -> i32 {
        self.0
    }

    /// Its name with the `SIG` in front: `SIGTERM`, `SIGRTMIN+3`.
    pub fn name(self) -> String {
        match self.0 {
            1..=31 => format!("SIG{}", NAMES[self.0 as usize - 1]),
            RTMIN => "SIGRTMIN".to_owned(),
            RTMAX => "SIGRTMAX".to_owned(),
            n if n > RTMIN => format!("SIGRTMIN+{}", n - RTMIN),
            n => format!("SIG{n}"),
        }
    }

    /// The rustix signal of the same number.
    pub(crate) fn raw(self) -> rustix::process::Signal {
        // SAFETY: the number is 1..=64 by construction. Sending one of the C library's own
        // signals (32, 33) to another process is that process's affair; nothing here blocks
        // or handles a signal by this value.
        #[allow(unsafe_code)]
        unsafe {
            rustix::process::Signal::from_raw_unchecked(self.0)
        }
    }
}

/// Reads `SIGTERM`, `TERM`, `term`, `15`, `RTMIN`, `SIGRTMIN+3` and `SIGRTMAX-2`.
impl FromStr for Signal {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::Argument {
            what: "signal",
            value: text.to_owned(),
            reason: "not a signal of Linux; use a name such as SIGTERM or a number from 1 to 64",
        };
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return text.parse().ok().and_then(Self::from_number).ok_or_else(wrong);
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some(at) = NAMES.iter().position(|n| *n == name) {
            return Ok(Self(at as i32 + 1));
        }
        if let Some((_, number)) = ALIASES.iter().find(|(alias, _)| *alias == name) {
            return Ok(Self(*number));
        }
        real_time(name).ok_or_else(wrong)
    }
}

fn real_time(name: &str) -> Option<Signal> {
    let offset = |text: &str| -> Option<i32> {
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        text.parse().ok()
    };
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(""), _) => RTMIN,
        (_, Some("")) => RTMAX,
        (Some(rest), _) => RTMIN.checked_add(offset(rest.strip_prefix('+')?)?)?,
        (_, Some(rest)) => RTMAX.checked_sub(offset(rest.strip_prefix('-')?)?)?,
        (None, None) => return None,
    };
    (RTMIN..=RTMAX).contains(&number).then_some(Signal(number))
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.0)
    }
}

/// Sends a signal to one process by its number.
///
/// Only where the caller knows that the process cannot have been reaped in between (its own
/// unreaped child, a member of a frozen cgroup); elsewhere use [`crate::pidfd`].
pub fn send(pid: crate::Pid, signal: Signal) -> Result<()> {
    rustix::process::kill_process(pid, signal.raw())
        .on_thing("send a signal to process", pid.as_raw_pid())
}

/// Sends a signal to every member of a process group.
pub fn send_group(group: crate::Pid, signal: Signal) -> Result<()> {
    rustix::process::kill_process_group(group, signal.raw())
        .on_thing("send a signal to process group", group.as_raw_pid())
}

/// Blocks signals for the calling thread, so that they wait for [`wait`]. Threads and children
/// made later inherit that (children of [`crate::spawn`] do not).
pub fn block(signals: &[Signal]) -> Result<()> {
    let set = set_of(signals);
    // SAFETY: both sets are valid for the call; the old one is not asked for.
    #[allow(unsafe_code)]
    let errno =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    let result = if errno == 0 { Ok(()) } else { Err(std::io::Error::from_raw_os_error(errno)) };
    result.on_thing("block", "signals")
}

/// Waits for one of these signals, which must be blocked ([`block`]), and takes it.
pub fn wait(signals: &[Signal]) -> Result<Signal> {
    let set = set_of(signals);
    loop {
        // SAFETY: the set is valid for the call; no siginfo is asked for.
        #[allow(unsafe_code)]
        let number = unsafe { libc::sigwaitinfo(&raw const set, std::ptr::null_mut()) };
        if let Some(signal) = Signal::from_number(number) {
            return Ok(signal);
        }
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(Error::on("wait for", "signals", error));
        }
    }
}

/// The eventfd that SIGCHLD adds to, once [`deaths`] has been asked for it.
static DEATHS: Mutex<Option<OwnedFd>> = Mutex::new(None);
/// Its number: a signal handler may take no lock.
static DEATHS_NUMBER: AtomicI32 = AtomicI32::new(-1);

/// A descriptor of which epoll, edge-triggered, tells each time a child of this process has ended.
///
/// There is nothing to be read from it: each death adds to an eventfd, and that makes an edge also
/// while it is readable. All that this gives share one; SIGCHLD is handled by it from then on.
pub fn deaths() -> Result<OwnedFd> {
    let mut deaths = DEATHS.lock().unwrap_or_else(PoisonError::into_inner);
    if deaths.is_none() {
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        let made = rustix::event::eventfd(0, flags).on_thing("make", "eventfd")?;
        DEATHS_NUMBER.store(made.as_raw_fd(), Ordering::Release);
        handle_child().on_thing("handle", "SIGCHLD")?;
        *deaths = Some(made);
    }
    let clone = deaths.as_ref().map(OwnedFd::try_clone);
    clone.unwrap_or_else(|| Err(std::io::ErrorKind::NotFound.into())).on_thing("copy", "eventfd")
}

fn handle_child() -> std::io::Result<()> {
    // SAFETY: sigaction is plain data, of which all zeros is a value, and is valid for the call; the
    // handler does nothing that signal-safety(7) does not allow.
    #[allow(unsafe_code)]
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = note_death as extern "C" fn(libc::c_int) as usize;
        action.sa_flags = libc::SA_RESTART | libc::SA_NOCLDSTOP;
        libc::sigaction(libc::SIGCHLD, &raw const action, std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

extern "C" fn note_death(_: libc::c_int) {
    let fd: RawFd = DEATHS_NUMBER.load(Ordering::Acquire);
    let one = 1_u64.to_ne_bytes();
    // SAFETY: write(2) is async-signal-safe and reads eight bytes that live as long as the call; the
    // descriptor is never closed. It may change errno, which the interrupted code may be about to
    // read: that is put back. errno's place is this thread's own.
    #[allow(unsafe_code)]
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        libc::write(fd, one.as_ptr().cast(), one.len());
        *errno = before;
    }
}

fn set_of(signals: &[Signal]) -> libc::sigset_t {
    // SAFETY: sigset_t is plain data; sigaddset writes to it only, and its numbers are 1 to 64.
    #[allow(unsafe_code)]
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, signal.number());
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{Timespec, epoll};

    use super::*;

    #[test]
    fn each_death_of_a_child_makes_an_edge() {
        let (deaths, others) = (deaths().unwrap(), deaths().unwrap());
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &deaths, epoll::EventData::new_u64(1), flags).unwrap();
        drop(others);
        for _ in 0..3 {
            let mut child = std::process::Command::new("true").spawn().unwrap();
            let mut events = Vec::with_capacity(1);
            let limit = Timespec { tv_sec: 60, tv_nsec: 0 };
            let wait =
                || epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&limit));
            assert_eq!(rustix::io::retry_on_intr(wait).unwrap(), 1);
            child.wait().unwrap();
        }
    }

    #[test]
    fn every_number_survives_its_name() {
        for number in (1..=31).chain(RTMIN..=RTMAX) {
            let signal = Signal::from_number(number).unwrap();
            assert_eq!(signal.name().parse::<Signal>().unwrap(), signal);
            assert_eq!(signal.name()[3..].to_lowercase().parse::<Signal>().unwrap(), signal);
            assert_eq!(number.to_string().parse::<Signal>().unwrap(), signal);
        }
    }

    #[test]
    fn the_table_agrees_with_the_c_library() {
        for (name, number) in [
            ("SIGHUP", libc::SIGHUP),
            ("SIGABRT", libc::SIGABRT),
            ("SIGKILL", libc::SIGKILL),
            ("SIGUSR2", libc::SIGUSR2),
            ("SIGTERM", libc::SIGTERM),
            ("SIGCHLD", libc::SIGCHLD),
            ("SIGURG", libc::SIGURG),
            ("SIGWINCH", libc::SIGWINCH),
            ("SIGPWR", libc::SIGPWR),
            ("SIGSYS", libc::SIGSYS),
            ("SIGRTMIN", libc::SIGRTMIN()),
            ("SIGRTMIN+3", libc::SIGRTMIN() + 3),
            ("SIGRTMAX-2", libc::SIGRTMAX() - 2),
        ] {
            assert_eq!(name.parse::<Signal>().unwrap().number(), number, "{name}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "SIG",
            "0",
            "65",
            "-1",
            "SIGFOO",
            "RTMIN-1",
            "RTMIN+31",
            "RTMAX+1",
            "RTMIN+",
            "RTMIN++1",
            "99999999999",
            " TERM",
        ] {
            let error = text.parse::<Signal>().unwrap_err();
            assert_eq!(error.kind(), crate::Kind::Invalid, "{text:?}");
        }
    }
}
