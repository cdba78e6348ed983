//! The pod's cgroup and its containers'.

use std::borrow::Cow;
use std::time::Duration;

use berth_cgroup::{
    Cgroup, Cgroups, Extent, HugepageLimit, Remaining, Resources, Version, systemd,
};
use berth_oci::facts::{CgroupDriver, NodeFacts};
use berth_oci::{SCOPE_PREFIX, cgroups_path};
use berth_pod::record::{CgroupFact, ContainerFact, Failure, PodFact, PodRecord, PodResources};
use berth_pod::{ContainerId, Kind, spec};

use super::{Context, Result, Trouble, blocking};
use crate::convert::Fail as _;
use crate::layout::below;

/// The period that a quota of a pod counts in, in microseconds: the kernel's own.
const PERIOD: i64 = 100_000;

/// The shortest quota that the kernel takes.
const SHORTEST_QUOTA: i64 = 1_000;

/// How long killed processes may take to be gone.
pub(crate) const KILL: Duration = Duration::from_secs(8);

pub(super) async fn acquire(context: &Context) -> Result<PodFact> {
    let fact = place(context)?;
    let cgroup = context.shared.cgroups.at(&fact.path)?;
    let (ours, limits) = (fact.ours, limits(&context.record.resources()));
    if let Some(slice) = unit(&fact, &fact.path) {
        blocking(move || make_slice(&cgroup, &slice, ours.then_some(&limits))).await?;
        return Ok(PodFact::Cgroup(fact));
    }
    blocking(move || {
        let made = cgroup.create(Extent::All);
        made.map_err(|why| if ours { why.into() } else { unfit(&cgroup, why) })?;
        // What the kubelet made, it limits itself.
        if ours { Ok(cgroup.apply(&limits)?) } else { Ok(()) }
    })
    .await?;
    Ok(PodFact::Cgroup(fact))
}

/// Where the pod's cgroup is to be, by today's driver.
fn place(context: &Context) -> Result<CgroupFact> {
    let (record, settings) = (&context.record, context.settings());
    let named = record.spec.spec.cgroup_parent.as_deref();
    let ours = named.is_none();
    if settings.node.cgroup_driver == CgroupDriver::Cgroupfs {
        let own = || context.layout().pod_cgroup(&record.id);
        let path = named.map_or_else(own, str::to_owned);
        return Ok(CgroupFact { path, ours, systemd: false });
    }
    let slice = match named {
        // It is refused in the words of CRI.
        Some(parent) => cgroups_path(CgroupDriver::Systemd, parent, "")
            .map(|_| parent.rsplit('/').next().unwrap_or_default().to_owned())?,
        None => systemd::pod_slice(&settings.cgroup_slice, record.id.as_str())?,
    };
    let path = systemd::slice_path(&slice).map_err(|why| misnamed(&slice, &why))?;
    Ok(CgroupFact { path: path.to_string(), ours, systemd: true })
}

fn misnamed(slice: &str, why: &berth_cgroup::Error) -> Trouble {
    let text = format!("config.linux.cgroup_parent is {slice:?}: {why}: give the path of a slice");
    Trouble::Failed(Failure::new(Kind::Invalid, text))
}

/// The unit that makes a cgroup of a pod, if systemd does.
fn unit(fact: &CgroupFact, path: &str) -> Option<String> {
    fact.systemd.then(|| path.rsplit('/').next().unwrap_or_default().to_owned())
}

/// A slice with these limits, or one of the kubelet's, which limits it itself.
fn make_slice(cgroup: &Cgroup, slice: &str, limits: Option<&Resources>) -> Result<()> {
    match limits {
        Some(limits) => systemd::start_slice(slice, &systemd::properties(Version::V2, limits)?)?,
        None if !cgroup.exists() => systemd::start_slice(slice, &[])?,
        None => {}
    }
    // systemd knows no huge pages: that controller is handed down as with cgroupfs.
    cgroup.create(Extent::All)?;
    limits.map_or(Ok(()), |limits| Ok(cgroup.apply(&beside_systemd(limits))?))
}

/// The limits for which systemd has no property.
fn beside_systemd(limits: &Resources) -> Resources {
    Resources { hugepages: limits.hugepages.clone(), ..Resources::default() }
}

/// Makes a pod's resources true where its cgroup is ours.
pub(crate) async fn limit(cgroups: &Cgroups, record: &PodRecord) -> Result<()> {
    let Some(held) = record.cgroup.held().filter(|held| held.ours) else { return Ok(()) };
    let (cgroup, limits) = (cgroups.at(&held.path)?, limits(&record.resources()));
    let slice = unit(held, &held.path);
    blocking(move || match slice {
        Some(slice) => {
            systemd::set(&slice, &systemd::properties(Version::V2, &limits)?)?;
            Ok(cgroup.apply(&beside_systemd(&limits))?)
        }
        None => Ok(cgroup.apply(&limits)?),
    })
    .await
}

/// The limits of a pod's cgroup: its containers' and the runtime's own together. What is not limited
/// in the one is not limited at all, and what was limited before is unlimited then.
fn limits(of: &PodResources) -> Resources {
    let none = spec::Resources::default();
    let own = of.overhead.as_ref().unwrap_or(&none);
    let Some(containers) = &of.containers else { return Resources::default() };
    let sum = |a: i64, b: i64| if a > 0 { a.saturating_add(b.max(0)) } else { -1 };
    let quota = |r: &spec::Resources| {
        let period = i128::from(if r.cpu_period > 0 { r.cpu_period } else { PERIOD });
        i64::try_from(i128::from(r.cpu_quota) * i128::from(PERIOD) / period).unwrap_or(-1)
    };
    let shares = u64::try_from(containers.cpu_shares.saturating_add(own.cpu_shares.max(0)));
    Resources {
        cpu_shares: shares.ok().filter(|_| containers.cpu_shares > 0),
        cpu_quota: Some(match sum(quota(containers), quota(own)) {
            limit if limit > 0 => limit.max(SHORTEST_QUOTA),
            unlimited => unlimited,
        }),
        cpu_period: Some(PERIOD.unsigned_abs()),
        memory_limit: Some(sum(containers.memory_limit, own.memory_limit)),
        hugepages: containers
            .hugepages
            .iter()
            .map(|(size, limit)| HugepageLimit { page_size: size.clone(), limit: *limit })
            .collect(),
        ..Resources::default()
    }
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
    let fact = fact(context)?;
    clear_of_pod(context, &fact.path).await
}

/// The pod's cgroup as it was made, or as it is to be.
fn fact(context: &Context) -> Result<CgroupFact> {
    context.record.cgroup.held().map_or_else(|| place(context), |held| Ok(held.clone()))
}

/// The facts of the node, with the driver that made the pod's cgroup.
pub(super) fn node(context: &Context) -> Cow<'_, NodeFacts> {
    let (node, held) = (&context.settings().node, context.record.cgroup.held());
    let driver = match held {
        Some(held) if held.systemd => CgroupDriver::Systemd,
        Some(_) => CgroupDriver::Cgroupfs,
        None => node.cgroup_driver,
    };
    match driver == node.cgroup_driver {
        true => Cow::Borrowed(node),
        false => Cow::Owned(NodeFacts { cgroup_driver: driver, ..node.clone() }),
    }
}

/// Whether systemd makes the pod's cgroup, and those of its containers.
pub(super) fn by_systemd(context: &Context) -> bool {
    fact(context).is_ok_and(|fact| fact.systemd)
}

/// Only its path: the OCI runtime makes it. The path is saved first, so that it is known what to
/// kill in.
pub(super) fn acquire_container(context: &Context, id: &ContainerId) -> Result<ContainerFact> {
    Ok(ContainerFact::Cgroup(path_of(context, id)))
}

pub(super) async fn release_container(context: &Context, id: &ContainerId) -> Result<()> {
    clear_of_pod(context, &path_of(context, id)).await
}

/// The path of a container's cgroup, relative to each hierarchy's root.
pub(crate) fn path_of(context: &Context, id: &ContainerId) -> String {
    path_below(context, id.as_str())
}

/// The path of a cgroup in the pod's.
pub(super) fn path_below(context: &Context, name: &str) -> String {
    let own = || context.layout().pod_cgroup(&context.record.id);
    let fact = fact(context).ok();
    let scope = fact.as_ref().filter(|fact| fact.systemd);
    if let Some(Ok(scope)) = scope.map(|of| systemd::scope_path(&of.path, SCOPE_PREFIX, name)) {
        return scope.to_string();
    }
    let parent = fact.map_or_else(own, |fact| fact.path);
    format!("/{}", below(&parent, name).trim_start_matches('/'))
}

/// Kills everything in a cgroup, sees it gone, and removes it.
pub(crate) async fn clear(cgroup: Cgroup) -> Result<()> {
    remove(cgroup, None).await
}

/// Likewise, of a cgroup of the pod, with the unit that it may belong to.
pub(super) async fn clear_of_pod(context: &Context, path: &str) -> Result<()> {
    let unit = fact(context).ok().and_then(|fact| unit(&fact, path));
    remove(context.shared.cgroups.at(path)?, unit).await
}

async fn remove(cgroup: Cgroup, unit: Option<String>) -> Result<()> {
    blocking(move || {
        if cgroup.exists() {
            nobody(&cgroup, cgroup.kill(KILL)?)?;
        }
        if let Some(unit) = unit {
            systemd::stop(&unit)?;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn of(cpu_quota: i64, cpu_period: i64, memory_limit: i64) -> Option<spec::Resources> {
        let cpu_shares = 512;
        let none = spec::Resources::default();
        Some(spec::Resources { cpu_quota, cpu_period, memory_limit, cpu_shares, ..none })
    }

    #[test]
    fn a_pod_may_use_what_its_containers_and_its_runtime_may() {
        let both = PodResources { overhead: of(10_000, 50_000, 8), containers: of(30_000, 0, 64) };
        let limits = limits(&both);
        assert_eq!((limits.cpu_quota, limits.cpu_period), (Some(50_000), Some(100_000)));
        assert_eq!((limits.memory_limit, limits.cpu_shares), (Some(72), Some(1024)));
    }

    #[test]
    fn a_runtimes_limit_limits_no_containers_that_have_none() {
        let free = PodResources { overhead: of(10_000, 50_000, 8), containers: of(0, 0, 0) };
        let limits = limits(&free);
        assert_eq!((limits.cpu_quota, limits.memory_limit), (Some(-1), Some(-1)));
        let little = PodResources { overhead: None, containers: of(1_000, 1_000_000, 0) };
        assert_eq!(super::limits(&little).cpu_quota, Some(SHORTEST_QUOTA));
        let unsaid = PodResources { overhead: of(1, 2, 3), containers: None };
        assert_eq!(super::limits(&unsaid), Resources::default());
    }
}
