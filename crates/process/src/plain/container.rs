//! One container of a [`Shim`]: its states, its cgroup, its streams, its end.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use berth_cgroup::{Cgroup, Cgroups, Controller, Extent, Version};
use berth_sys::Signal;

use super::Shim;
use super::exec::Exec;
use super::launch::{Launch, Plan, Process};
use super::spec::{Bundle, Limits};
use crate::container::ContainerRequest;
use crate::error::{Error, Result};
use crate::place::Place;
use crate::process::{Ended, Life, Phase, signal};
use crate::pump::{Buffers, lock};
use crate::reaper::Reaper;
use crate::rootfs;
use crate::runtime::Streams;
use crate::stdio::{Ends, Owner, Stdio};

/// Output of somebody who left the container's cgroup is not waited for longer than this.
const DRAIN: Duration = Duration::from_secs(2);
/// How long a cgroup may take to stand still, and an empty one to be removed.
const CGROUP: Duration = Duration::from_secs(2);
/// How long a signal waits for a start to be over.
const STARTED: Duration = Duration::from_secs(10);

/// What all containers of a pod share.
#[derive(Debug)]
pub(super) struct Shared<S> {
    pub(super) shim: S,
    pub(super) reaper: Arc<Reaper>,
    pub(super) buffers: Arc<Buffers>,
    pub(super) cgroups: Cgroups,
}

/// One container.
#[derive(Debug)]
pub(super) struct Container<S> {
    pub(super) shared: Arc<Shared<S>>,
    pub(super) request: ContainerRequest,
    pub(super) bundle: Bundle,
    pub(super) process: Process,
    pub(super) created: SystemTime,
    pub(super) life: Life,
    pub(super) execs: Mutex<BTreeMap<String, Arc<Exec>>>,
    cgroup: Option<Cgroup>,
    place: Option<Place>,
    paused: Mutex<bool>,
}

/// Opens the streams of a process, with a terminal where one is wanted.
pub(super) async fn open(ends: &Ends, owner: Owner) -> Result<(Stdio, Streams)> {
    let (mut stdio, mut streams) = Stdio::open(ends, owner).await?;
    if ends.terminal {
        let (ours, theirs) = terminal()?;
        stdio.connect(ours, ends, owner).await?;
        let again = || theirs.try_clone().map_err(|e| Error::file("copy", "the terminal", e));
        streams = [Some(again()?), Some(again()?), Some(theirs)];
    }
    Ok((stdio, streams))
}

fn terminal() -> Result<(OwnedFd, OwnedFd)> {
    use rustix::fs::{CWD, Mode, OFlags, openat};
    use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
    let make = || -> rustix::io::Result<_> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags)?;
        unlockpt(&ours)?;
        let name = ptsname(&ours, Vec::new())?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let theirs = openat(CWD, &name, flags, Mode::empty())?;
        Ok((ours, theirs))
    };
    make().map_err(|e| Error::file("make", "a terminal", e))
}

impl<S: Shim> Container<S> {
    /// Makes it, up to the start of its program. On failure nothing stays.
    pub(super) async fn create(
        request: ContainerRequest,
        shared: Arc<Shared<S>>,
    ) -> Result<Arc<Self>> {
        if request.checkpoint.is_some() {
            let message = "this kind of container is not restored from a checkpoint";
            return Err(Error::Unimplemented(message.to_owned()));
        }
        let bundle = Bundle::read(&request.id, &request.bundle)?;
        if let Some(cgroup) = cgroup_of(&shared.cgroups, &bundle)? {
            let path = PathBuf::from(cgroup.path().as_str());
            Place::refuse_shared(&shared.cgroups, &path, &request.id)?;
        }
        let unmake = (Arc::clone(&shared), bundle.clone());
        match Self::make(request, shared, bundle).await {
            Ok(container) => {
                let container = Arc::new(container);
                tokio::spawn(Arc::clone(&container).attend());
                Ok(container)
            }
            Err(error) => {
                let (shared, bundle) = unmake;
                // The first error is the one to report.
                let _ = clean_up(&shared.shim, &shared.cgroups, &bundle).await;
                Err(error)
            }
        }
    }

    async fn make(
        request: ContainerRequest,
        shared: Arc<Shared<S>>,
        bundle: Bundle,
    ) -> Result<Self> {
        rootfs::mount(&request.rootfs, &bundle.root)?;
        let cgroup = cgroup_of(&shared.cgroups, &bundle)?;
        if let Some(cgroup) = &cgroup {
            cgroup.create(Extent::All)?;
            apply(cgroup, shared.cgroups.version(), bundle.spec.linux.resources.clone())?;
        }
        let (stdio, streams) = open(&request.ends, Owner::Container).await?;
        let launch = Launch {
            reaper: Arc::clone(&shared.reaper),
            plan: Plan {
                id: request.id.clone(),
                bundle: request.bundle.clone(),
                command: None,
                terminal: request.ends.terminal,
            },
            program: bundle.spec.process.clone(),
            streams,
            cgroup: cgroup.as_ref().map(Cgroup::enter_files).unwrap_or_default(),
            namespaces: Launch::pod_namespaces(&bundle)?,
            mounts: None,
        };
        let process = match bundle.is_sandbox() {
            true => launch.again()?,
            false => shared.shim.create(&bundle, launch).await?,
        };
        let place = match &cgroup {
            Some(cgroup) => {
                Some(Place::at(&shared.cgroups, &PathBuf::from(cgroup.path().as_str()))?)
            }
            None => None,
        };
        Ok(Self {
            shared,
            bundle,
            process,
            created: SystemTime::now(),
            life: Life::new(stdio),
            execs: Mutex::default(),
            cgroup,
            place,
            paused: Mutex::new(false),
            request,
        })
    }

    fn id(&self) -> &str {
        &self.bundle.id
    }

    pub(super) fn is_paused(&self) -> bool {
        *lock(&self.paused)
    }

    pub(super) fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    pub(super) async fn start(&self) -> Result<u32> {
        if !self.life.pass(Phase::Ready, Phase::Starting) {
            self.life.past_start(STARTED).await;
            let state = match self.life.phase() {
                Phase::Ended(_) => "it has ended",
                _ => "it has been started before",
            };
            return Err(Error::state("start", self.id(), state));
        }
        let begun = lock(&self.life.stdio).begin(&self.shared.buffers);
        let started = match begun {
            Ok(()) => self.shared.shim.start(&self.process).await,
            Err(error) => Err(error),
        };
        if let Err(error) = started {
            // It can never be started again: let its end be seen like any other.
            let _ = self.process.signal(Signal::KILL);
            return Err(error);
        }
        self.life.pass(Phase::Starting, Phase::Running);
        Ok(self.process.pid())
    }

    /// Waits for the end of the first process, makes it the end of the container, and reports it.
    async fn attend(self: Arc<Self>) {
        let code = match self.bundle.is_sandbox() {
            true => self.process.exited().await,
            false => self.shared.shim.wait(&self.process).await,
        };
        let at = SystemTime::now();
        let mut oom_kills = 0;
        if let Some(place) = &self.place {
            place.settle().await;
            oom_kills = place.oom_kills();
        }
        self.life.drain(DRAIN).await;
        let dropped_lines = lock(&self.life.stdio).dropped_lines();
        *lock(&self.paused) = false;
        self.life.end(Ended { code, at, oom_kills, dropped_lines });
    }

    pub(super) async fn kill(&self, number: u32, all: bool) -> Result<()> {
        let wanted = signal(number)?;
        if self.life.ended().is_some() {
            return Err(Error::NotFound { what: "running container", id: self.id().to_owned() });
        }
        if wanted != Signal::KILL {
            if self.life.phase() == Phase::Ready {
                return Err(Error::state("signal", self.id(), "it has not been started"));
            }
            if !self.life.past_start(STARTED).await {
                let (what, id) = ("start", self.id().to_owned());
                return Err(Error::TimedOut { what, id, limit: STARTED });
            }
        }
        match self.bundle.is_sandbox() {
            true => self.process.signal(wanted)?,
            false => self.shared.shim.kill(&self.process, wanted).await?,
        }
        match &self.place {
            Some(place) if wanted == Signal::KILL && (all || self.is_paused()) => place.strike(),
            Some(place) if all => place.signal_others(wanted, self.process.raw_pid()),
            _ => {}
        }
        Ok(())
    }

    /// Removes what is left of it after its end.
    pub(super) async fn delete(&self) -> Result<Ended> {
        let Some(ended) = self.life.ended() else {
            return Err(Error::state("delete", self.id(), "it still runs"));
        };
        self.shared.shim.delete(&self.bundle).await?;
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove(CGROUP)?;
        }
        rootfs::unmount(&self.bundle.root)?;
        Ok(ended)
    }

    pub(super) fn cgroup(&self, attempted: &'static str) -> Result<&Cgroup> {
        let why = "its spec gives it no cgroup";
        self.cgroup.as_ref().ok_or_else(|| Error::state(attempted, self.id(), why))
    }

    pub(super) fn pause(&self) -> Result<()> {
        if self.life.phase() != Phase::Running {
            return Err(Error::state("pause", self.id(), "it does not run"));
        }
        if !self.cgroup("pause")?.freeze(CGROUP)? {
            self.cgroup("resume")?.thaw()?;
            let (what, id) = ("pause", self.id().to_owned());
            return Err(Error::TimedOut { what, id, limit: CGROUP });
        }
        *lock(&self.paused) = true;
        Ok(())
    }

    pub(super) fn resume(&self) -> Result<()> {
        self.cgroup("resume")?.thaw()?;
        *lock(&self.paused) = false;
        Ok(())
    }

    pub(super) fn update(&self, resources: &[u8]) -> Result<()> {
        if self.life.ended().is_some() {
            return Err(Error::state("update", self.id(), "it has ended"));
        }
        let cgroup = self.cgroup("update")?;
        apply(cgroup, self.shared.cgroups.version(), Limits::parse(resources)?)
    }
}

/// The cgroup that a spec names; `None` if it names none.
fn cgroup_of(cgroups: &Cgroups, bundle: &Bundle) -> Result<Option<Cgroup>> {
    let path = bundle.spec.linux.cgroups_path.as_str();
    if path.is_empty() {
        return Ok(None);
    }
    if path.contains(':') {
        return Err(Error::Unimplemented(format!(
            "{}: cgroup {path:?} is systemd's to make; this shim makes its own: use cgroupfs",
            bundle.id
        )));
    }
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Ok(Some(cgroups.at(&path)?))
}

/// The kubelet names a limit for every size of huge pages of the machine: where the kernel keeps
/// none there is none to set.
fn apply(cgroup: &Cgroup, version: Version, limits: Limits) -> Result<()> {
    let directory = cgroup.directory(Controller::Hugetlb);
    let file = |size: &str| match version {
        Version::V1 => format!("hugetlb.{size}.limit_in_bytes"),
        Version::V2 => format!("hugetlb.{size}.max"),
    };
    let keeps = |size: &str| directory.as_ref().is_some_and(|dir| dir.join(file(size)).exists());
    Ok(cgroup.apply(&limits.resources(keeps))?)
}

/// Removes what is left of a container, whoever made it. Nothing left is fine.
pub(super) async fn clean_up<S: Shim>(shim: &S, cgroups: &Cgroups, bundle: &Bundle) -> Result<()> {
    if let Some(cgroup) = cgroup_of(cgroups, bundle)? {
        Place::at(cgroups, &PathBuf::from(cgroup.path().as_str()))?.settle().await;
        cgroup.remove(CGROUP)?;
    }
    shim.delete(bundle).await?;
    rootfs::unmount(&bundle.root)
}
