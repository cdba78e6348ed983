//! A machine of its own for the end-to-end tests: Debian's kernel with cgroup v2 and systemd, in QEMU.
//!
//! `tools/guest/image` makes its root; [`host`] puts the built programs on a second disk, boots it and
//! judges what it says; [`runner`] is what runs in it. The two share what is said over a serial line.

mod disk;
pub mod host;
pub mod runner;

use clap::ValueEnum;

/// How cgroups are made in the guest: `cgroups.driver` of Berth's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Driver {
    /// By writing files.
    Cgroupfs,
    /// By asking systemd.
    Systemd,
}

impl Driver {
    /// The variable by which tests are told.
    pub const VARIABLE: &str = "BERTH_TESTKIT_CGROUP_DRIVER";

    /// What nodes under test have: cgroupfs, if nothing else is said.
    #[must_use]
    pub fn of_tests() -> Self {
        match std::env::var(Self::VARIABLE).as_deref() {
            Ok("systemd") => Self::Systemd,
            _ => Self::Cgroupfs,
        }
    }

    /// Its name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cgroupfs => "cgroupfs",
            Self::Systemd => "systemd",
        }
    }
}

/// Says a line where people and the other side see it.
fn say(text: impl std::fmt::Display) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    // Who cannot be told learns it from the exit status.
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// The last line of a guest that ran its tests to the end.
fn summary(passed: usize, failed: usize) -> String {
    format!("guest: {passed} passed, {failed} failed")
}
