//! Signals by name and number.
//!
//! The numbers are those of Linux on x86-64 and arm64 (signal(7)). Real-time signals count from
//! SIGRTMIN = 34 as glibc and musl show it: 32 and 33 belong to the C library's threads.

use std::fmt;
use std::str::FromStr;

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
    use super::*;

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
