//! One container: its init, its execs, its cgroup, its root file system.
//!
//! Its end is reported only when it is certain. When init has exited, an attendant kills whatever
//! is left in the cgroup and sees it gone, waits for the log to be complete, and reads the OOM
//! counter; then `Tasks::wait` answers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use berth_cgroup::Cgroups;
use berth_sys::Signal;
use tokio::sync::Notify;

use crate::body::{Body, Kill};
use crate::bundle::{Config, Traces};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::exec::{Exec, ExecRequest};
use crate::guest::Guest;
use crate::ledger::Ledger;
use crate::place::{Figures, Place, Rest};
use crate::process::{Ended, Life, Phase, Program, signal};
use crate::pump::{Buffers, lock};
use crate::rootfs::{self, MountRequest};
use crate::runtime::Runtime;
use crate::stdio::Ends;

/// Output of somebody who left the container's cgroup and still holds its pipe is not waited for
/// longer than this.
const DRAIN: Duration = Duration::from_secs(2);
/// How much later than what ran in it the death of a container may be seen.
const SOON: Duration = Duration::from_millis(100);
/// How long what a failed creation left may take to be killed, and the runtime to forget it.
const UNDO: Duration = Duration::from_secs(5);
/// How long a signal waits for the program to have taken the runtime's place.
const STARTED: Duration = Duration::from_secs(10);

/// What a container is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerRequest {
    /// Its id.
    pub id: String,
    /// Directory with its config.json.
    pub bundle: PathBuf,
    /// Its streams.
    pub ends: Ends,
    /// What to mount as its root file system; empty: it is there.
    pub rootfs: Vec<MountRequest>,
    /// Directory of the images of a checkpoint: the container is made of them, and its processes
    /// run from then on.
    pub checkpoint: Option<PathBuf>,
}

/// What a container is made with.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) buffers: Arc<Buffers>,
    pub(crate) cgroups: Cgroups,
    /// What was counted of each container of the pod.
    pub(crate) ledger: Arc<Ledger>,
    /// The beginning of the paths of sockets.
    pub(crate) sockets: PathBuf,
    /// The container whose sandbox this one joins, where there are sandboxes.
    pub(crate) sandbox: Option<Arc<Container>>,
}

/// One container.
#[derive(Debug)]
pub(crate) struct Container {
    request: ContainerRequest,
    shared: Shared,
    root: PathBuf,
    body: Body,
    created: SystemTime,
    life: Life,
    paused: Mutex<bool>,
    /// One freeze, thaw or checkpoint at a time: CRIU freezes anew, at its end, what was frozen.
    freezing: tokio::sync::Mutex<()>,
    execs: Mutex<BTreeMap<String, Arc<Exec>>>,
    serial: AtomicU64,
    /// Kills for want of memory that were counted in cgroups of execs that are gone.
    counted: AtomicU64,
    /// Somebody has asked for its death.
    killed: AtomicBool,
}

impl Container {
    /// Makes the container, up to its program's exec. What was made is unmade if it fails, or if
    /// it is `killed` meanwhile.
    pub(crate) async fn create(
        request: ContainerRequest,
        shared: Shared,
        killed: &Notify,
    ) -> Result<Arc<Self>> {
        let config = Config::read(&request.bundle)?;
        let root = config.rootfs(&request.bundle);
        let (options, flavour) = (shared.runtime.options().clone(), shared.runtime.flavour());
        // What the spec asks for, until the kernel says what came of it: a shim that dies in between
        // must not leave a process that nobody can find.
        let asked = asked(&shared.cgroups, &config.linux.cgroups_path);
        if let Some(path) = &asked {
            Place::refuse_shared(&shared.cgroups, path, &request.id)?;
        }
        let mut traces = Traces { runtime: options, flavour, cgroup: asked };
        traces.save(&request.bundle)?;
        rootfs::mount(&request.rootfs, &root)?;
        let (id, bundle) = (request.id.clone(), request.bundle.clone());
        let (runtime, cgroups) = (Arc::clone(&shared.runtime), shared.cgroups.clone());
        let made = tokio::select! {
            made = Self::make(request, shared, &config, root.clone()) => made,
            () = killed.notified() => Err(Error::Cancelled { id: id.clone() }),
        };
        match made {
            Ok(container) => {
                let place = container.place().map(Place::path);
                if place.is_some() && place != traces.cgroup {
                    traces.cgroup = place;
                    // On a full disk what the spec asks for is still there.
                    let _ = traces.save(&bundle);
                }
                let container = Arc::new(container);
                tokio::spawn(Arc::clone(&container).attend());
                Ok(container)
            }
            Err(error) => {
                // The caller learns why it failed; what cannot be undone now, `delete` will meet.
                if let Some(place) = traces.cgroup.and_then(|path| Place::at(&cgroups, &path).ok())
                {
                    let _ = tokio::time::timeout(UNDO, place.settle()).await;
                }
                let _ = tokio::time::timeout(UNDO, runtime.delete(&id, &bundle)).await;
                let _ = rootfs::unmount(&root);
                Err(error)
            }
        }
    }

    async fn make(
        request: ContainerRequest,
        shared: Shared,
        config: &Config,
        root: PathBuf,
    ) -> Result<Self> {
        let (body, stdio) = Body::create(&request, &shared, config).await?;
        if let Some(place) = body.place() {
            if shared.runtime.options().systemd_cgroup {
                let resources = Config::resources(&request.bundle)?;
                place.tell_systemd(&resources).await?;
                place.apply(Rest::split(&resources)?.1)?;
            }
            // Last: what fails here has no end that would be noted.
            shared.ledger.begin(&request.id, place);
        }
        Ok(Self {
            root,
            body,
            created: SystemTime::now(),
            life: Life::new(stdio),
            paused: Mutex::new(false),
            freezing: tokio::sync::Mutex::new(()),
            execs: Mutex::default(),
            serial: AtomicU64::new(0),
            counted: AtomicU64::new(0),
            killed: AtomicBool::new(false),
            request,
            shared,
        })
    }

    pub(crate) fn id(&self) -> &str {
        &self.request.id
    }

    pub(crate) fn request(&self) -> &ContainerRequest {
        &self.request
    }

    pub(crate) fn bundle(&self) -> &Path {
        &self.request.bundle
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.shared.runtime
    }

    pub(crate) fn buffers(&self) -> &Arc<Buffers> {
        &self.shared.buffers
    }

    fn place(&self) -> Option<&Place> {
        self.body.place()
    }

    /// The cgroup that all its processes are in, if they are the node's.
    pub(crate) fn native_place(&self) -> Option<&Place> {
        self.body.native_place()
    }

    /// It, as runsc knows it, if its processes are guests.
    pub(crate) fn guest(&self) -> Option<&Guest> {
        self.body.guest()
    }

    /// The pids of its processes, as the kernel that they run in knows them.
    pub(crate) async fn pids(&self) -> Result<Vec<u32>> {
        self.body.pids().await
    }

    /// What is counted of it.
    pub(crate) async fn figures(&self) -> Result<Figures> {
        self.body.figures().await?.ok_or_else(|| {
            Error::state("measure", self.id(), "the runtime gave it no cgroup of its own")
        })
    }

    pub(crate) fn created(&self) -> SystemTime {
        self.created
    }

    pub(crate) fn life(&self) -> &Life {
        &self.life
    }

    pub(crate) fn pid(&self) -> u32 {
        self.body.pid()
    }

    /// Whether init has ended, reported or not, or is about to: what is killed with a container
    /// need not die in its order.
    pub(crate) async fn ends_soon(&self) -> bool {
        self.killed.load(Ordering::Relaxed)
            || self.life.ended().is_some()
            || tokio::time::timeout(SOON, self.body.over()).await.is_ok()
    }

    pub(crate) fn is_paused(&self) -> bool {
        *lock(&self.paused)
    }

    /// A short path for a socket of this container.
    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        socket(&self.shared.sockets, &format!("{}-{name}", self.request.id))
    }

    /// Whether this is the runtime's program, which execs replace too.
    pub(crate) fn is_runtime(&self, program: Program) -> bool {
        self.body.is_runtime(program)
    }

    /// Starts the program; answers when it has taken the runtime's place.
    pub(crate) async fn start(&self) -> Result<u32> {
        if !self.life.pass(Phase::Ready, Phase::Starting) {
            // A repeat of a start under way is told once it is past.
            self.life.past_start(STARTED).await;
            let state = match self.life.phase() {
                Phase::Ended(_) => "it has ended",
                _ => "it has been started before",
            };
            return Err(Error::state("start", self.id(), state));
        }
        if let Err(error) = self.body.start(self).await {
            // It can never be started again: let its end be seen like any other.
            self.body.give_up();
            return Err(error);
        }
        self.life.pass(Phase::Starting, Phase::Running);
        Ok(self.pid())
    }

    /// Waits for init's end, makes it the end of the container, and reports it.
    async fn attend(self: Arc<Self>) {
        let code = self.body.exited(&self.life).await;
        let at = SystemTime::now();
        let own = self.body.settle().await;
        let own = self.shared.ledger.end(self.id(), own);
        let oom_kills = own + self.counted.load(Ordering::Relaxed);
        self.life.drain(DRAIN).await;
        let dropped_lines = lock(&self.life.stdio).dropped_lines();
        *lock(&self.paused) = false;
        self.life.end(Ended { code, at, oom_kills, dropped_lines });
    }

    /// Sends a signal to init, or to everything in the cgroup.
    pub(crate) async fn kill(&self, number: u32, all: bool) -> Result<()> {
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
        if wanted == Signal::KILL {
            self.killed.store(true, Ordering::Relaxed);
        }
        let (paused, unstarted) = (self.is_paused(), self.life.phase() == Phase::Ready);
        let alive = self.body.kill(Kill { signal: wanted, all, paused, unstarted }).await?;
        if alive {
            return Ok(());
        }
        // Dead, but not reported: somebody else in its cgroup is not gone yet.
        if let Some(who) = self.body.survivors() {
            return Err(Error::Undying { id: self.id().to_owned(), who });
        }
        Ok(())
    }

    pub(crate) fn add_exec(&self, request: ExecRequest) -> Result<()> {
        if self.life.phase() != Phase::Running {
            return Err(Error::state("exec in", self.id(), "it does not run"));
        }
        if self.is_paused() {
            return Err(Error::state("exec in", self.id(), "it is paused"));
        }
        let mut execs = lock(&self.execs);
        if execs.contains_key(&request.id) {
            return Err(Error::Exists { what: "exec", id: request.id });
        }
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        execs.insert(request.id.clone(), Arc::new(Exec::new(request, serial)));
        Ok(())
    }

    pub(crate) fn exec(&self, id: &str) -> Result<Arc<Exec>> {
        let found = lock(&self.execs).get(id).cloned();
        found.ok_or_else(|| Error::NotFound { what: "exec", id: id.to_owned() })
    }

    /// The execs, with their pids in the kernel that they run in.
    pub(crate) fn exec_pids(&self) -> Vec<(String, u32)> {
        lock(&self.execs).iter().map(|(id, exec)| (id.clone(), exec.inner_pid())).collect()
    }

    pub(crate) fn remove_exec(&self, id: &str) -> Result<Option<Ended>> {
        let exec = self.exec(id)?;
        let ended = match exec.life().phase() {
            // Whoever waits for it learns that it will never be.
            Phase::Ready | Phase::Failed => {
                exec.life().fail();
                None
            }
            Phase::Ended(ended) => Some(ended),
            Phase::Starting | Phase::Running => {
                return Err(Error::state("delete", id, "it still runs"));
            }
        };
        self.counted.fetch_add(exec.remove_place(), Ordering::Relaxed);
        lock(&self.execs).remove(id);
        Ok(ended)
    }

    /// Removes what the runtime keeps of an ended container, and its root file system's mount.
    pub(crate) async fn delete(&self) -> Result<Ended> {
        let Some(ended) = self.life.ended() else {
            let state = match self.body.survivors() {
                Some(who) => format!("it still runs: {who}"),
                None => "it still runs".to_owned(),
            };
            return Err(Error::state("delete", self.id(), state));
        };
        for exec in lock(&self.execs).values() {
            exec.remove_place();
        }
        self.shared.runtime.delete(self.id(), self.bundle()).await?;
        rootfs::unmount(&self.root)?;
        Ok(ended)
    }

    pub(crate) async fn pause(&self) -> Result<()> {
        let _turn = self.freezing.lock().await;
        self.must_run("pause")?;
        self.shared.runtime.pause(self.id(), self.bundle()).await?;
        *lock(&self.paused) = true;
        Ok(())
    }

    pub(crate) async fn resume(&self) -> Result<()> {
        let _turn = self.freezing.lock().await;
        self.must_run("resume")?;
        self.shared.runtime.resume(self.id(), self.bundle()).await?;
        *lock(&self.paused) = false;
        Ok(())
    }

    /// Applies resources, as JSON of the OCI spec.
    pub(crate) async fn update(&self, resources: &[u8]) -> Result<()> {
        if self.life.ended().is_some() {
            return Err(Error::state("update", self.id(), "it has ended"));
        }
        let place = self.place();
        if self.guest().is_some() {
            // runsc has no `update`: its limits are those of the cgroups that it has made.
            return place.map_or(Ok(()), |place| place.apply_all(resources));
        }
        let (own, rest) = Rest::split(resources)?;
        self.shared.runtime.update(self.id(), self.bundle(), &own).await?;
        let Some(place) = place else { return Ok(()) };
        if self.shared.runtime.options().systemd_cgroup {
            place.tell_systemd(resources).await?;
        }
        place.apply(rest)
    }

    /// Writes the container's state to a directory.
    pub(crate) async fn checkpoint(&self, wanted: &Checkpoint) -> Result<()> {
        let _turn = self.freezing.lock().await;
        self.must_run("checkpoint")?;
        self.shared.runtime.checkpoint(self.id(), self.bundle(), wanted).await
    }

    fn must_run(&self, attempted: &'static str) -> Result<()> {
        match self.life.phase() {
            Phase::Running => Ok(()),
            _ => Err(Error::state(attempted, self.id(), "it does not run")),
        }
    }
}

/// Where the cgroup is to be that a spec names, if it names one.
fn asked(cgroups: &Cgroups, cgroups_path: &str) -> Option<PathBuf> {
    let named = !cgroups_path.is_empty();
    let place = named.then(|| Place::at(cgroups, std::path::Path::new(cgroups_path)).ok());
    place.flatten().map(|place| place.path())
}

/// `<prefix>-<hash of the name>`: a unix socket's path ends at 108 bytes, ids do not.
pub(crate) fn socket(prefix: &Path, name: &str) -> PathBuf {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    let mut path = prefix.as_os_str().to_owned();
    path.push(format!("-{:08x}", hasher.finish() as u32));
    path.into()
}
