//! What a command has started: a shim by others kills only the command's first process.

use std::os::fd::OwnedFd;

use berth_cgroup::Cgroup;
use berth_shim_client::Shim;
use berth_sys::{Pid, Signal, pidfd, process};

/// More processes than this are no family.
const MOST: usize = 10_000;

/// The processes that descend from an exec, if they are in the container's cgroup.
pub(crate) async fn of(shim: &Shim, id: &str, exec: &str, cgroup: &Cgroup) -> Vec<OwnedFd> {
    let Ok(state) = shim.state(id, Some(exec)).await else { return Vec::new() };
    let first = i32::try_from(state.pid).ok().and_then(Pid::from_raw);
    let cgroup = cgroup.clone();
    let found = tokio::task::spawn_blocking(move || first.map(|first| descend(first, &cgroup)));
    found.await.ok().flatten().unwrap_or_default()
}

fn descend(first: Pid, cgroup: &Cgroup) -> Vec<OwnedFd> {
    let mut all = vec![first];
    let mut at = 0;
    while at < all.len() && all.len() < MOST {
        all.extend(process::children(all[at]).unwrap_or_default());
        at += 1;
    }
    let open: Vec<_> =
        all.into_iter().filter_map(|pid| Some((pid, pidfd::open(pid).ok()?))).collect();
    // Compared after the open: a number may have come to name a stranger.
    let members = cgroup.processes().unwrap_or_default();
    open.into_iter().filter(|(pid, _)| members.contains(pid)).map(|(_, fd)| fd).collect()
}

/// Kills them; who has ended already is no matter.
pub(crate) fn kill(family: &[OwnedFd]) {
    for process in family {
        let _ = pidfd::send(process, Signal::KILL);
    }
}
