//! Killing all members of a cgroup where the kernel has no call for it.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use berth_sys::{Pid, Signal, pidfd};

use crate::error::Result;
use crate::members::{self, Remaining};

/// How many processes are held by descriptor at a time: well below any limit of open files.
const BATCH: usize = 128;

/// How long one round waits for those it killed before it looks again.
const ROUND: Duration = Duration::from_millis(200);

/// Kills in rounds until nobody is left or the time is up. `before` runs first in each round (it
/// freezes, so that nobody forks between the look and the kill), `after` last, always.
pub(crate) fn in_rounds(
    directories: &[PathBuf],
    limit: Duration,
    mut before: impl FnMut(Duration) -> Result<()>,
    mut after: impl FnMut() -> Result<()>,
) -> Result<Vec<Remaining>> {
    let end = Instant::now() + limit;
    while !members::none(directories)? {
        let left = end.saturating_duration_since(Instant::now());
        let struck = before(left).and_then(|()| strike(directories));
        let thawed = after();
        let killed = struck?;
        thawed?;
        let round = end.min(Instant::now() + ROUND);
        for process in killed {
            let left = round.saturating_duration_since(Instant::now());
            if !pidfd::wait_exited(&process, left)? {
                break;
            }
        }
        if Instant::now() >= end {
            return Remaining::below(directories);
        }
        settle(directories, round)?;
    }
    // Also where nobody was found: a caller that died in here may have left it frozen, and then
    // whoever enters it next would stand still.
    after()?;
    Ok(Vec::new())
}

/// Sends SIGKILL to all members. Each is held by a pidfd and then looked for once more, so that a
/// number that passed to a stranger meanwhile is never hit.
fn strike(directories: &[PathBuf]) -> Result<Vec<OwnedFd>> {
    let mut held = Vec::new();
    for batch in members::below(directories)?.chunks(BATCH) {
        held = batch.iter().filter_map(|pid| Some((*pid, pidfd::open(*pid).ok()?))).collect();
        let still: HashSet<Pid> = members::below(directories)?.into_iter().collect();
        for (pid, process) in &held {
            if still.contains(pid) {
                // It may have died by itself; who stays is seen in the next round.
                let _ = pidfd::send(process, Signal::KILL);
            }
        }
    }
    Ok(held.into_iter().map(|(_, process)| process).collect())
}

/// An exited process leaves its cgroup a moment after its pidfd says so.
fn settle(directories: &[PathBuf], until: Instant) -> Result<()> {
    let mut pause = Duration::from_micros(100);
    while !members::below(directories)?.is_empty() && Instant::now() + pause < until {
        std::thread::sleep(pause);
        pause *= 2;
    }
    Ok(())
}
