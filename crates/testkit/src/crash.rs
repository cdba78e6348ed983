//! The crash harness: the daemon's begin and end lines, and death at any one of them.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// How long a call may run under the tracer.
const PATIENCE: Duration = Duration::from_secs(60);

/// What kind of thing a line of the daemon's log begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An effect on the system.
    Effect,
    /// A save of a record.
    Save,
}

/// One begin or end line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Of what.
    pub kind: Kind,
    /// Whether it begins.
    pub begins: bool,
}

/// Whether a log line is one that the daemon writes at the begin or end of an effect or a save.
/// The log's form is known here and nowhere else in the testkit.
#[must_use]
pub fn point(line: &str) -> Option<Point> {
    for word in line.split(|sign: char| sign.is_whitespace() || sign == ',') {
        let kind = match word.split_once('=') {
            Some(("effect", _)) => Kind::Effect,
            Some(("save", _)) => Kind::Save,
            _ => continue,
        };
        match word.split_once('=').map(|(_, value)| value.trim_matches('"')) {
            Some("begin") => return Some(Point { kind, begins: true }),
            Some("end") => return Some(Point { kind, begins: false }),
            _ => {}
        }
    }
    None
}

/// On which side of a write the daemon dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The line is not written.
    Before,
    /// The line is written, and nothing after it.
    After,
}

/// Where the daemon dies: at the Nth point since the tracer attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strike {
    /// Counted from 1.
    pub number: usize,
    /// Before or after it.
    pub side: Side,
}

impl Strike {
    /// Both sides of every point of a call that has this many.
    pub fn all(points: usize) -> impl Iterator<Item = Self> {
        (1..=points)
            .flat_map(|number| [Side::Before, Side::After].map(|side| Self { number, side }))
    }
}

/// A daemon that is being traced. Dropping it lets the daemon go on.
#[derive(Debug)]
pub struct Traced {
    child: Child,
    seen: Arc<(Mutex<Seen>, Condvar)>,
}

#[derive(Debug, Default)]
struct Seen {
    attached: bool,
    ended: bool,
    killed: bool,
    lines: Vec<String>,
}

impl Traced {
    /// Attaches to a daemon, and returns once every thread of it is followed.
    ///
    /// # Errors
    /// If it cannot be traced.
    pub fn attach(pid: u32, strike: Option<Strike>) -> Result<Self> {
        let mut command = Command::new(crate::paths::testkit()?);
        command.arg("trace").arg(pid.to_string()).stdin(Stdio::null()).stdout(Stdio::piped());
        if let Some(strike) = strike {
            command.arg(strike.number.to_string());
            if strike.side == Side::After {
                command.arg("--after");
            }
        }
        let mut child = command.spawn().context("start the tracer")?;
        let stdout = child.stdout.take().context("the tracer's stdout")?;
        let seen = Arc::<(Mutex<Seen>, Condvar)>::default();
        let shared = Arc::clone(&seen);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let mut now = lock(&shared.0);
                match line.as_str() {
                    "attached" => now.attached = true,
                    "killed" => now.killed = true,
                    _ => now.lines.push(line),
                }
                shared.1.notify_all();
            }
            lock(&shared.0).ended = true;
            shared.1.notify_all();
        });
        let traced = Self { child, seen };
        if !traced.wait(|seen| seen.attached || seen.ended)?.attached {
            bail!("the tracer could not attach to the daemon; its message is above");
        }
        Ok(traced)
    }

    /// The lines that were points, so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        lock(&self.seen.0).lines.clone()
    }

    /// Whether the daemon has been killed; waits for the tracer's end, which a kill brings.
    ///
    /// # Errors
    /// If the tracer does not end.
    pub fn killed(&self) -> Result<bool> {
        Ok(self.wait(|seen| seen.ended)?.killed)
    }

    /// Lets the daemon go; returns whether it has been killed before.
    ///
    /// # Errors
    /// If the tracer does not end.
    pub fn release(mut self) -> Result<bool> {
        self.child.kill().context("end the tracer")?;
        self.killed()
    }

    fn wait(&self, done: impl Fn(&Seen) -> bool) -> Result<MutexGuard<'_, Seen>> {
        let guard = lock(&self.seen.0);
        let (guard, late) = self
            .seen
            .1
            .wait_timeout_while(guard, crate::patience::here(PATIENCE), |seen| !done(seen))
            .unwrap_or_else(PoisonError::into_inner);
        if late.timed_out() {
            bail!("the tracer says nothing for {} s", PATIENCE.as_secs());
        }
        Ok(guard)
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_told_from_other_lines() {
        let begin = "2026-11-21T21:00:00Z INFO berth: effect=begin step=acquire.network pod=a";
        assert_eq!(point(begin), Some(Point { kind: Kind::Effect, begins: true }));
        assert_eq!(
            point("INFO save=\"end\" pod=a"),
            Some(Point { kind: Kind::Save, begins: false })
        );
        assert_eq!(point("INFO a save begins"), None);
        assert_eq!(point("INFO effect=other"), None);
    }
}
