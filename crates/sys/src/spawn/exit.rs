//! How a process ended.

use std::fmt;

use crate::signal::Signal;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited by itself, with this code.
    Code(u8),
    /// A signal killed it.
    Signal(Signal),
}

impl Exit {
    /// Whether it exited with code 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }

    /// The code as shells and container runtimes show it: 128 + n for signal n.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => i32::from(code),
            Self::Signal(signal) => 128 + signal.number(),
        }
    }

    /// Reads what waitid(2) answered; `None` if that was not an end.
    pub(crate) fn from_wait(status: &rustix::process::WaitIdStatus) -> Option<Self> {
        if let Some(code) = status.exit_status() {
            // The kernel keeps the low byte only.
            return Some(Self::Code((code & 0xff) as u8));
        }
        status.terminating_signal().and_then(Signal::from_number).map(Self::Signal)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal(signal) => write!(f, "was killed by {signal}"),
        }
    }
}
