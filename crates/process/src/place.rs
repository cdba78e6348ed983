//! The cgroup of a container: who is in it, and the certainty that nobody is any more.

use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_cgroup::{
    Cgroup, Cgroups, Controller, DeviceIo, Extent, HugepageLimit, Pressures, Resources, Stats,
    Throttling, Version, systemd,
};
use berth_sys::{Pid, Signal};

use crate::error::{Error, Result};
use crate::flavour::Flavour;

/// One attempt to kill all holds up everything else in this process: hence short, and repeated.
const ATTEMPT: Duration = Duration::from_millis(10);
/// Where membership alone matters: a memory cgroup for each exec would split the accounting, and
/// outlive the exec for as long as a page that it touched stays cached.
const FREEZER: Extent<'_> = Extent::Only(&[Controller::Freezer]);
/// The longest interval between two attempts.
const PATIENCE: Duration = Duration::from_secs(1);

/// The cgroup of a container.
#[derive(Clone, Debug)]
pub struct Place {
    cgroup: Cgroup,
    version: Version,
}

impl Place {
    /// The cgroup that a process is in, as the kernel says: what was asked for and what a runtime
    /// made of it need not be the same. `None` if that is our own cgroup, or the root.
    pub(crate) fn of(cgroups: &Cgroups, pid: Pid) -> Result<Option<Self>> {
        let path = membership(cgroups.version(), &pid.as_raw_pid().to_string());
        let own = membership(cgroups.version(), "self");
        match path {
            Some(path) if Some(&path) != own.as_ref() && path != "/" => {
                Self::at(cgroups, Path::new(&path)).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The cgroup of this name below each hierarchy's root, or of systemd's name of one.
    pub fn at(cgroups: &Cgroups, path: &Path) -> Result<Self> {
        let path = systemd::of_bundle(&path.to_string_lossy())?;
        let cgroup = cgroups.at(path.as_str())?;
        Ok(Self { cgroup, version: cgroups.version() })
    }

    /// Refuses a container a cgroup that somebody is in: they would all be killed with it.
    pub(crate) fn refuse_shared(cgroups: &Cgroups, path: &Path, id: &str) -> Result<()> {
        let Some(who) = Self::at(cgroups, path)?.survivors() else { return Ok(()) };
        let state = format!("its cgroup {} has processes already: {who}", path.display());
        Err(Error::state("create", id, state))
    }

    /// Which interface it is read by.
    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// Its name.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(self.cgroup.path().as_str())
    }

    /// All that the kernel counts for it.
    pub fn figures(&self) -> Result<Figures> {
        Ok(Figures {
            version: self.version,
            stats: self.cgroup.stats()?,
            throttling: self.cgroup.throttling()?,
            memory: self.cgroup.memory_stat()?,
            io: self.cgroup.io()?,
            pressures: self.cgroup.pressures()?,
            oom_kills: self.oom_kills(),
        })
    }

    /// Kills everything in it until nothing is left, however long that takes: the end of a
    /// container is not reported before.
    pub(crate) async fn settle(&self) {
        let mut interval = ATTEMPT;
        loop {
            match self.cgroup.kill(ATTEMPT) {
                Ok(remaining) if remaining.is_empty() => return,
                // A cgroup that we may not kill in (our own), or that cannot be read any more.
                Err(_) => return,
                Ok(_) => tokio::time::sleep(interval).await,
            }
            interval = (interval * 2).min(PATIENCE);
        }
    }

    /// Kills everything in it once, without waiting for the result. Frozen processes are thawed.
    pub(crate) fn strike(&self) {
        // Whoever waits for the end settles it, and meets the same error.
        let _ = self.cgroup.kill(Duration::ZERO);
    }

    /// Sends a signal to all processes but one.
    pub(crate) fn signal_others(&self, signal: Signal, except: Pid) {
        for pid in self.cgroup.processes().unwrap_or_default() {
            if pid != except
                && let Ok(pidfd) = berth_sys::pidfd::open(pid)
            {
                // A process that has gone meanwhile needs no signal.
                let _ = berth_sys::pidfd::send(pidfd, signal);
            }
        }
    }

    /// The processes in it.
    pub(crate) fn pids(&self) -> Result<Vec<u32>> {
        let pids = self.cgroup.processes()?;
        Ok(pids.into_iter().map(|pid| pid.as_raw_pid().cast_unsigned()).collect())
    }

    /// Who is still there, in what state, waiting where; `None` if nobody.
    pub(crate) fn survivors(&self) -> Option<String> {
        let who: Vec<String> = self
            .cgroup
            .processes()
            .ok()?
            .into_iter()
            .filter_map(|pid| {
                let stat = berth_sys::process::stat(pid).ok()?;
                let at = berth_sys::process::wait_channel(pid).unwrap_or_default();
                let state = stat.state.letter();
                Some(format!("pid {} ({}) state {state} in {at}", stat.pid, stat.name))
            })
            .collect();
        (!who.is_empty()).then(|| who.join(", "))
    }

    /// How many processes the kernel has killed in it for want of memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        // Without a memory controller there is no such death.
        self.cgroup.oom_kills().unwrap_or(0)
    }

    /// The same, if it is still there when it is read: systemd removes it as soon as nobody is in it.
    pub(crate) fn counted(&self) -> Option<u64> {
        match self.cgroup.oom_kills() {
            Ok(kills) => Some(kills),
            // Without a memory controller it is there, and has no counter.
            Err(_) => self.cgroup.exists().then_some(0),
        }
    }

    /// The cgroup that it is in; `None` for the highest ones.
    pub(crate) fn above(&self) -> Option<Self> {
        let above = self.cgroup.above()?;
        Some(Self { cgroup: above, version: self.version })
    }

    /// Applies the shim's own part of an update. The kubelet names a limit for every size of huge
    /// pages of the machine: where the kernel keeps none, a limit of 0 is kept all the same.
    pub(crate) fn apply(&self, mut rest: Rest) -> Result<()> {
        let directory = self.cgroup.directory(Controller::Hugetlb);
        let kept = |size: &str| {
            let file = match self.version {
                Version::V1 => format!("hugetlb.{size}.limit_in_bytes"),
                Version::V2 => format!("hugetlb.{size}.max"),
            };
            directory.as_ref().is_some_and(|directory| directory.join(file).exists())
        };
        rest.hugepage_limits.retain(|page| page.limit > 0 || kept(&page.page_size));
        if rest.hugepage_limits.is_empty() && rest.unified.is_empty() {
            return Ok(());
        }
        Ok(self.cgroup.apply(&rest.resources())?)
    }

    /// Tells systemd, which has made the cgroup, of limits that the runtime has made true: JSON of the
    /// OCI spec's `linux.resources`. crun (1.8) writes files alone, and systemd would undo that. It undoes
    /// now what it has no property for: [`Place::apply`] comes after this. The bus may be slow, and this
    /// process has one thread for everything: another one waits.
    pub(crate) async fn tell_systemd(&self, resources: &[u8]) -> Result<()> {
        let path = self.cgroup.path().as_str();
        let Some(scope) = path.rsplit('/').next().filter(|name| name.ends_with(".scope")) else {
            return Ok(());
        };
        let json = |source| Error::Json { what: "resources".to_owned(), source };
        let all: All = serde_json::from_slice(resources).map_err(json)?;
        let rest: Rest = serde_json::from_slice(resources).map_err(json)?;
        // Shares as the runtime has them: there are two ways to count those.
        let weight = all.cpu.shares.and_then(|_| self.cgroup.weight());
        let resources = Resources { cpu_shares: None, ..all.resources() };
        let mut properties = systemd::properties(self.version, &resources)?;
        properties.extend(weight.map(|weight| systemd::Property::Number("CPUWeight", weight)));
        properties.extend(systemd::of_files(&rest.unified));
        let scope = scope.to_owned();
        match tokio::task::spawn_blocking(move || systemd::set(&scope, &properties)).await {
            Ok(done) => Ok(done?),
            Err(_) => Err(Error::Cancelled { id: path.to_owned() }),
        }
    }

    /// Applies all of an update, where no runtime does: JSON of the OCI spec's `linux.resources`.
    pub(crate) fn apply_all(&self, resources: &[u8]) -> Result<()> {
        let json = |source| Error::Json { what: "resources".to_owned(), source };
        let all: All = serde_json::from_slice(resources).map_err(json)?;
        self.cgroup.apply(&all.resources())?;
        self.apply(Rest::split(resources)?.1)
    }

    /// A cgroup below it for one exec; `None` if it cannot be made.
    pub(crate) fn sub(&self, name: &str, runtime: Flavour) -> Option<SubPlace> {
        let cgroup = self.cgroup.child(name).ok()?;
        let (extent, argument) = match (self.version, runtime) {
            (Version::V2, Flavour::Crun | Flavour::Runc) => (FREEZER, Some(name.to_owned())),
            (Version::V1, Flavour::Runc) => (FREEZER, Some(format!("freezer:{name}"))),
            // It looks for the name in every hierarchy, and where that is missing it leaves the
            // process outside the container altogether.
            (Version::V1, Flavour::Crun) => (Extent::All, Some(name.to_owned())),
            (_, Flavour::Runsc | Flavour::Other) => (FREEZER, None),
        };
        match self.version {
            Version::V1 => cgroup.create(extent).ok()?,
            // Bare: to enable controllers for it is refused while the container's own cgroup has
            // processes (cgroup-v2.rst, "No Internal Process Constraint").
            Version::V2 => {
                let container = self.cgroup.directory(Controller::Freezer)?;
                std::fs::create_dir(container.join(name)).ok()?;
            }
        }
        Some(SubPlace { cgroup, argument })
    }

    /// Kills a process and its descendants, where there is no cgroup to tell them by.
    pub(crate) fn kill_tree(root: Pid, over: bool) -> bool {
        let mut pending = if over { Vec::new() } else { vec![root] };
        let mut killed = false;
        while let Some(pid) = pending.pop() {
            pending.extend(berth_sys::process::children(pid).unwrap_or_default());
            killed |= berth_sys::signal::send(pid, Signal::KILL).is_ok();
        }
        killed
    }
}

/// What was counted for a cgroup, with all below it.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Which interface it was read by.
    pub version: Version,
    /// Processor, memory, swap, tasks.
    pub stats: Stats,
    /// What a processor quota did.
    pub throttling: Option<Throttling>,
    /// The lines of `memory.stat`.
    pub memory: Vec<(String, u64)>,
    /// Block I/O by device.
    pub io: Vec<DeviceIo>,
    /// Pressure stall information.
    pub pressures: Option<Pressures>,
    /// Processes killed for want of memory.
    pub oom_kills: u64,
}

/// The cgroup of an exec.
#[derive(Debug)]
pub(crate) struct SubPlace {
    cgroup: Cgroup,
    argument: Option<String>,
}

impl SubPlace {
    /// What `exec --cgroup` is to be told; `None` if this runtime is not known to understand.
    pub(crate) fn argument(&self) -> Option<String> {
        self.argument.clone()
    }

    /// Moves a process in from outside; what it has started before is not caught.
    pub(crate) fn take_in(&self, pid: Pid) {
        // A process that is dead already needs no cgroup.
        let _ = self.cgroup.admit(pid);
    }

    /// Kills everything in it. False if nobody was there.
    pub(crate) async fn kill_all(&self, id: &str) -> Result<bool> {
        if self.cgroup.processes().is_ok_and(|pids| pids.is_empty()) {
            return Ok(false);
        }
        let mut interval = ATTEMPT;
        let mut waited = Duration::ZERO;
        loop {
            let remaining = self.cgroup.kill(ATTEMPT)?;
            if remaining.is_empty() {
                return Ok(true);
            }
            if waited > PATIENCE * 5 {
                let who: Vec<String> = remaining.iter().map(ToString::to_string).collect();
                return Err(Error::Undying { id: id.to_owned(), who: who.join(", ") });
            }
            tokio::time::sleep(interval).await;
            waited += interval;
            interval = (interval * 2).min(PATIENCE);
        }
    }

    /// How many processes the kernel has killed in it for want of memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        self.cgroup.oom_kills().unwrap_or(0)
    }

    /// True if it is gone; populated, it goes with the container.
    pub(crate) fn remove_if_empty(&self) -> bool {
        self.cgroup.remove(Duration::ZERO).is_ok()
    }
}

/// The parts of `linux.resources` that the shim applies itself: runc's `update` knows neither, and
/// crun's fails where there is no hugetlb controller.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Rest {
    hugepage_limits: Vec<Hugepage>,
    unified: std::collections::BTreeMap<String, String>,
}

/// The parts of `linux.resources` that are limits of a cgroup, but for [`Rest`].
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct All {
    memory: MemoryLimits,
    cpu: CpuLimits,
    pids: PidsLimit,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct MemoryLimits {
    limit: Option<i64>,
    swap: Option<i64>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct CpuLimits {
    shares: Option<u64>,
    quota: Option<i64>,
    period: Option<u64>,
    cpus: Option<String>,
    mems: Option<String>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct PidsLimit {
    limit: Option<i64>,
}

impl All {
    fn resources(self) -> Resources {
        let set = |text: Option<String>| text.filter(|text| !text.is_empty());
        Resources {
            memory_limit: self.memory.limit,
            memory_swap_limit: self.memory.swap,
            cpu_shares: self.cpu.shares,
            cpu_quota: self.cpu.quota,
            cpu_period: self.cpu.period,
            cpuset_cpus: set(self.cpu.cpus),
            cpuset_mems: set(self.cpu.mems),
            pids_limit: self.pids.limit,
            ..Resources::default()
        }
    }
}

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hugepage {
    page_size: String,
    limit: u64,
}

impl Rest {
    /// Takes resources apart: what the runtime is to apply, as JSON, and the rest.
    pub(crate) fn split(resources: &[u8]) -> Result<(Vec<u8>, Self)> {
        let json = |source| Error::Json { what: "resources".to_owned(), source };
        let rest = serde_json::from_slice(resources).map_err(json)?;
        let mut all: serde_json::Map<_, _> = serde_json::from_slice(resources).map_err(json)?;
        all.remove("hugepageLimits");
        all.remove("unified");
        Ok((serde_json::to_vec(&all).map_err(json)?, rest))
    }

    fn resources(self) -> Resources {
        let page = |page: Hugepage| HugepageLimit { page_size: page.page_size, limit: page.limit };
        Resources {
            hugepages: self.hugepage_limits.into_iter().map(page).collect(),
            unified: self.unified,
            ..Resources::default()
        }
    }
}

/// The path of a process's cgroup: on v1 in the memory hierarchy, or else the first one in which it
/// is not at the root.
fn membership(version: Version, process: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
    let mut lines = text.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        rest.split_once(':')
    });
    match version {
        Version::V2 => lines.find(|(names, _)| names.is_empty()).map(|(_, path)| path.to_owned()),
        Version::V1 => {
            let memory = |names: &str| names.split(',').any(|name| name == "memory");
            let all: Vec<_> = lines.filter(|(names, _)| !names.is_empty()).collect();
            let found = all.iter().find(|(names, _)| memory(names));
            found.or(all.first()).map(|(_, path)| (*path).to_owned())
        }
    }
}
