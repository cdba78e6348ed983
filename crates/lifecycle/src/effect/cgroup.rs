//! The pod's cgroup and its containers'.

use std::time::Duration;

use berth_cgroup::{Cgroup, Extent, Remaining};
use berth_pod::record::{CgroupFact, ContainerFact, Failure, PodFact};
use berth_pod::{ContainerId, Kind};

use super::{Context, Result, Trouble, blocking};
use crate::convert::Fail as _;
use crate::layout::below;

/// How long killed processes may take to be gone.
pub(crate) const KILL: Duration = Duration::from_secs(8);

pub(super) async fn acquire(context: &Context) -> Result<PodFact> {
    let named = context.record.spec.spec.cgroup_parent.clone();
    let own = context.layout().pod_cgroup(&context.record.id);
    let fact = CgroupFact { ours: named.is_none(), path: named.unwrap_or(own) };
    let cgroup = context.shared.cgroups.at(&fact.path)?;
    let ours = fact.ours;
    blocking(move || {
        let made = cgroup.create(Extent::All);
        made.map_err(|why| if ours { why.into() } else { unfit(&cgroup, why) })
    })
    .await?;
    Ok(PodFact::Cgroup(fact))
}

/// A cgroup that was asked for, and that cannot be one because of its name.
fn unfit(cgroup: &Cgroup, why: berth_cgroup::Error) -> Trouble {
    let path = cgroup.path().as_str();
    let text = format!("config.linux.cgroup_parent is {path:?}: {why}: give the path of a cgroup");
    let failure = why.fail();
    let kind = match failure.kind {
        Kind::NotFound | Kind::Exists => Kind::Invalid,
        kind => kind,
    };
    Trouble::Failed(Failure::new(kind, text))
}

/// A cgroup that the kubelet named is the kubelet's to remove.
pub(super) async fn release(context: &Context) -> Result<()> {
    if context.record.spec.spec.cgroup_parent.is_some() {
        return Ok(());
    }
    let held = context.record.cgroup.held().map(|cgroup| cgroup.path.clone());
    let path = held.unwrap_or_else(|| context.layout().pod_cgroup(&context.record.id));
    clear(context.shared.cgroups.at(&path)?).await
}

/// Only its path: the OCI runtime makes it. The path is saved first, so that it is known what to
/// kill in.
pub(super) fn acquire_container(context: &Context, id: &ContainerId) -> Result<ContainerFact> {
    Ok(ContainerFact::Cgroup(path_of(context, id)))
}

pub(super) async fn release_container(context: &Context, id: &ContainerId) -> Result<()> {
    clear(context.shared.cgroups.at(&path_of(context, id))?).await
}

/// The path of a container's cgroup, relative to each hierarchy's root.
pub(crate) fn path_of(context: &Context, id: &ContainerId) -> String {
    path_below(context, id.as_str())
}

/// The path of a cgroup in the pod's.
pub(super) fn path_below(context: &Context, name: &str) -> String {
    let own = || context.layout().pod_cgroup(&context.record.id);
    let held = context.record.cgroup.held().map(|c| c.path.clone());
    let named = context.record.spec.spec.cgroup_parent.clone();
    let parent = held.or(named).unwrap_or_else(own);
    format!("/{}", below(&parent, name).trim_start_matches('/'))
}

/// Kills everything in a cgroup, sees it gone, and removes it.
pub(crate) async fn clear(cgroup: Cgroup) -> Result<()> {
    blocking(move || {
        if !cgroup.exists() {
            return Ok(());
        }
        nobody(&cgroup, cgroup.kill(KILL)?)?;
        Ok(cgroup.remove(Duration::from_secs(2))?)
    })
    .await
}

/// Kills everything in a cgroup and sees it gone.
pub(super) async fn empty(cgroup: Cgroup) -> Result<()> {
    blocking(move || match cgroup.exists() {
        true => nobody(&cgroup, cgroup.kill(KILL)?),
        false => Ok(()),
    })
    .await
}

/// A living process is never left over: it is said which, in what state, and where it waits.
pub(crate) fn nobody(cgroup: &Cgroup, remaining: Vec<Remaining>) -> Result<()> {
    if remaining.is_empty() {
        return Ok(());
    }
    let each = |r: &Remaining| {
        format!("pid {} ({}), state {}, waiting in {}", r.pid, r.name, r.state, r.wait_channel)
    };
    let list: Vec<_> = remaining.iter().map(each).collect();
    let text = format!(
        "processes in cgroup {} cannot be killed: {}",
        cgroup.path().as_str(),
        list.join("; ")
    );
    Err(Trouble::Living(Failure::new(Kind::TimedOut, text)))
}
