//! Jobs of a daemon that died are killed before anything of this one begins.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use berth_cgroup::{Cgroups, Extent};

/// How long killed jobs may take to be gone.
const LIMIT: Duration = Duration::from_secs(5);

/// Empties the jobs' cgroup, makes it if there is none, and answers the files to enter it by.
///
/// Who cannot die waits in the kernel, for a file system mostly. It is told; it will not run
/// another instruction of its own, so it cannot act behind our back.
pub(super) fn raise(cgroups: &Cgroups, parent: &str) -> anyhow::Result<Vec<PathBuf>> {
    let name = format!("{parent}/jobs");
    let failed = || format!("cannot empty the cgroup {name} of an earlier daemon's jobs");
    let jobs = cgroups.at(&name).with_context(failed)?;
    for remaining in jobs.kill(LIMIT).with_context(failed)? {
        tracing::warn!(?remaining, "a job of an earlier daemon does not die yet");
    }
    jobs.create(Extent::All).with_context(|| format!("cannot make the cgroup {name}"))?;
    Ok(jobs.enter_files())
}
