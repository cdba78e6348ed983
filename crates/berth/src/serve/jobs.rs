//! The cgroup that every child job of the daemon starts in.

use std::path::PathBuf;

use anyhow::Context as _;
use berth_cgroup::{Cgroups, Controller, Extent};

/// v1: the hierarchies where jobs are members, to be found, stopped and killed.
const HIERARCHIES: [Controller; 4] =
    [Controller::Pids, Controller::Freezer, Controller::Systemd, Controller::Memory];

/// Makes it if there is none, and answers the files to enter it by.
///
/// Emptying it of a dead daemon's jobs is the lifecycle's first act: nothing starts before.
pub(super) fn enter_files(cgroups: &Cgroups, parent: &str) -> anyhow::Result<Vec<PathBuf>> {
    let name = format!("{parent}/jobs");
    let failed = || format!("cannot make the cgroup {name}");
    let jobs = cgroups.at(&name).with_context(failed)?;
    jobs.create(Extent::Only(&HIERARCHIES)).with_context(failed)?;
    Ok(jobs.enter_files())
}
