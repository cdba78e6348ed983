//! What a command has started: a shim by others kills only the command's first process.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use berth_cgroup::Cgroup;
use berth_shim_client::{Shim, Status};
use berth_sys::{Pid, Signal, pidfd, process};

/// More processes than this are no family.
const MOST: usize = 10_000;

/// How long they may take to stand still, all together.
const STOP: Duration = Duration::from_secs(1);

/// The processes that descend from an exec, if they are in the container's cgroup. They are stopped:
/// none of them starts another one before it is killed.
pub(crate) async fn of(shim: &Shim, id: &str, exec: &str, cgroup: &Cgroup) -> Vec<OwnedFd> {
    let Ok(state) = shim.state(id, Some(exec)).await else { return Vec::new() };
    // Its number may name another process of the container by now.
    if state.status == Status::Stopped {
        return Vec::new();
    }
    let first = i32::try_from(state.pid).ok().and_then(Pid::from_raw);
    let cgroup = cgroup.clone();
    let found = tokio::task::spawn_blocking(move || first.map(|first| descend(first, &cgroup)));
    found.await.ok().flatten().unwrap_or_default()
}

fn descend(first: Pid, cgroup: &Cgroup) -> Vec<OwnedFd> {
    let (mut family, mut generation) = (Vec::new(), vec![first]);
    let end = Instant::now() + STOP;
    while !generation.is_empty() && family.len() < MOST {
        let open: Vec<_> =
            generation.iter().filter_map(|pid| Some((*pid, pidfd::open(*pid).ok()?))).collect();
        // Compared after the open: a number may have come to name a stranger.
        let members = cgroup.processes().unwrap_or_default();
        generation.clear();
        let own: Vec<_> = open.into_iter().filter(|(pid, _)| members.contains(pid)).collect();
        for (_, process) in &own {
            let _ = pidfd::send(process, Signal::STOP);
        }
        for (pid, process) in own {
            stand_still(pid, end);
            generation.extend(process::children(pid).unwrap_or_default());
            family.push(process);
        }
    }
    family
}

/// Waits until a process that is told to has stopped, or it is time: its children are all there then. A
/// fork under way ends before it.
fn stand_still(pid: Pid, end: Instant) {
    let runs = |letter| !matches!(letter, 'T' | 't' | 'Z' | 'X');
    while process::stat(pid).is_ok_and(|stat| runs(stat.state.letter())) && Instant::now() < end {
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// Kills them; who has ended already is no matter.
pub(crate) fn kill(family: &[OwnedFd]) {
    for process in family {
        let _ = pidfd::send(process, Signal::KILL);
    }
}
