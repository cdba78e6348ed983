//! All containers that one shim answers for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use berth_cgroup::Cgroups;
use berth_sys::Signal;
use tokio::sync::Notify;

use crate::attach::Attachment;
use crate::bundle::{Config, Traces};
use crate::checkpoint::Checkpoint;
use crate::container::{Container, ContainerRequest, Shared};
use crate::error::{Error, Result};
use crate::exec::{Exec, ExecRequest};
use crate::flavour::{Flavour, Network};
use crate::ledger::Ledger;
use crate::place::{Figures, Place};
use crate::process::{Ended, Life, Phase};
use crate::pump::{Buffers, lock};
use crate::reaper::Reaper;
use crate::rootfs;
use crate::runtime::{Runtime, RuntimeOptions};
use crate::stdio::Ends;

/// How long processes of a dead shim's container may take to die before it is an error.
const DEATH: Duration = Duration::from_secs(20);

/// A container, or an exec in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The container.
    pub container: String,
    /// The exec; `None` is the container's init.
    pub exec: Option<String>,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.exec {
            None => f.write_str(&self.container),
            Some(exec) => write!(f, "{exec} in {}", self.container),
        }
    }
}

/// Where a process stands, as a client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Made, its program not started.
    Created,
    /// It runs.
    Running,
    /// It is frozen.
    Paused,
    /// It is over.
    Stopped,
}

/// What is known of a process.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The container's bundle.
    pub bundle: PathBuf,
    /// Its pid; 0 if it has none yet.
    pub pid: u32,
    /// When its container was made.
    pub created: SystemTime,
    /// Where it stands.
    pub status: Status,
    /// Its streams.
    pub ends: Ends,
    /// How it ended, if it has.
    pub ended: Option<Ended>,
}

/// A process in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its pid.
    pub pid: u32,
    /// The exec that it is the first process of, if it is.
    pub exec: Option<String>,
}

/// The containers of one shim.
#[derive(Debug)]
pub struct Tasks {
    reaper: Arc<Reaper>,
    buffers: Arc<Buffers>,
    cgroups: Cgroups,
    ledger: Arc<Ledger>,
    sockets: PathBuf,
    flavours: Mutex<BTreeMap<PathBuf, Flavour>>,
    containers: Mutex<BTreeMap<String, Slot>>,
    /// Told when one that was being made is made, or cannot be.
    settled: Notify,
}

#[derive(Clone, Debug)]
enum Slot {
    /// Somebody is making it, until the other is notified.
    Making(Box<ContainerRequest>, Arc<Notify>),
    Made(Arc<Container>),
}

enum Found {
    Init(Arc<Container>),
    Exec(Arc<Container>, Arc<Exec>),
}

impl Found {
    fn life(&self) -> &Life {
        match self {
            Self::Init(container) => container.life(),
            Self::Exec(_, exec) => exec.life(),
        }
    }
}

impl Tasks {
    /// No container yet. `sockets` is the beginning of the paths of console sockets.
    pub fn new(reaper: Arc<Reaper>, cgroups: Cgroups, sockets: PathBuf) -> Self {
        Self {
            reaper,
            buffers: Arc::default(),
            cgroups,
            ledger: Arc::default(),
            sockets,
            flavours: Mutex::default(),
            containers: Mutex::default(),
            settled: Notify::new(),
        }
    }

    /// Whether there is no container.
    pub fn is_empty(&self) -> bool {
        lock(&self.containers).is_empty()
    }

    /// Gives up every container that is being made.
    pub async fn stop_all_making(&self) {
        for id in self.ids() {
            self.stop_making(&id).await;
        }
    }

    /// The ids of all containers.
    pub fn ids(&self) -> Vec<String> {
        lock(&self.containers).keys().cloned().collect()
    }

    /// Makes a container; answers its pid. A repeat of a request under way waits for its outcome:
    /// whoever made the first may have died, and goes by what this one answers.
    ///
    /// # Errors
    /// Exists if there is one of this id made by the same request; WrongState if the request was
    /// another.
    pub async fn create(&self, request: ContainerRequest, options: RuntimeOptions) -> Result<u32> {
        let killed = Arc::new(Notify::new());
        loop {
            let settled = self.settled.notified();
            if self.reserve(&request, &killed)? {
                break;
            }
            settled.await;
        }
        let id = request.id.clone();
        let made = match self.make(request, options, &killed).await {
            Ok(container) => {
                let pid = container.pid();
                lock(&self.containers).insert(id, Slot::Made(container));
                Ok(pid)
            }
            Err(error) => {
                lock(&self.containers).remove(&id);
                Err(error)
            }
        };
        self.settled.notify_waiters();
        made
    }

    async fn make(
        &self,
        request: ContainerRequest,
        options: RuntimeOptions,
        killed: &Notify,
    ) -> Result<Arc<Container>> {
        let flavour = self.flavour(&options.binary).await;
        let (mut network, mut sandbox) = (Network::Host, None);
        if flavour.has_guests() {
            let config = Config::read(&request.bundle)?;
            network = Network::of(&config);
            sandbox = config.group().and_then(|group| self.container(group).ok());
        }
        let runtime = Runtime::new(options, flavour, network, Arc::clone(&self.reaper));
        let shared = Shared {
            runtime: Arc::new(runtime),
            buffers: Arc::clone(&self.buffers),
            cgroups: self.cgroups.clone(),
            ledger: Arc::clone(&self.ledger),
            sockets: self.sockets.clone(),
            sandbox,
        };
        Container::create(request, shared, killed).await
    }

    /// Which runtime this is, asked once.
    async fn flavour(&self, binary: &Path) -> Flavour {
        if let Some(known) = lock(&self.flavours).get(binary) {
            return *known;
        }
        let flavour = Flavour::of(&self.reaper, binary).await;
        lock(&self.flavours).insert(binary.to_owned(), flavour);
        flavour
    }

    /// Takes the id for this request; false if the same request is being worked on.
    fn reserve(&self, request: &ContainerRequest, killed: &Arc<Notify>) -> Result<bool> {
        let mut containers = lock(&self.containers);
        let there = match containers.get(&request.id) {
            None => {
                let slot = Slot::Making(Box::new(request.clone()), Arc::clone(killed));
                containers.insert(request.id.clone(), slot);
                return Ok(true);
            }
            Some(Slot::Making(there, _)) if there.as_ref() == request => return Ok(false),
            Some(Slot::Making(there, _)) => there.as_ref(),
            Some(Slot::Made(container)) => container.request(),
        };
        if there == request {
            return Err(Error::Exists { what: "container", id: request.id.clone() });
        }
        Err(Error::state("create", &request.id, "a container made otherwise has this id"))
    }

    /// Starts a container or exec; answers its pid.
    pub async fn start(&self, target: &Target) -> Result<u32> {
        match self.find(target)? {
            Found::Init(container) => container.start().await,
            Found::Exec(container, exec) => exec.start(&container).await,
        }
    }

    /// Adds an exec, to be started.
    pub fn add_exec(&self, container: &str, request: ExecRequest) -> Result<()> {
        self.container(container)?.add_exec(request)
    }

    /// Sends a signal.
    ///
    /// SIGKILL to a container that is being made ends the making, however long its runtime would
    /// have taken; the answer comes when it is over.
    pub async fn kill(&self, target: &Target, signal: u32, all: bool) -> Result<()> {
        if target.exec.is_none() && i32::try_from(signal) == Ok(Signal::KILL.number()) {
            self.stop_making(&target.container).await;
        }
        match self.find(target)? {
            Found::Init(container) => container.kill(signal, all).await,
            Found::Exec(container, exec) => exec.kill(&container, signal).await,
        }
    }

    /// Waits for the end of a container or exec; it may be waited for before its start.
    pub async fn wait(&self, target: &Target) -> Result<Ended> {
        let found = self.find(target)?;
        found
            .life()
            .wait()
            .await
            .ok_or_else(|| Error::state("wait for", target.to_string(), "its start failed"))
    }

    /// What is known of a container or exec.
    pub fn facts(&self, target: &Target) -> Result<Facts> {
        let found = self.find(target)?;
        let (container, pid, ends) = match &found {
            Found::Init(container) => (container, container.pid(), &container.request().ends),
            Found::Exec(container, exec) => (container, exec.pid(), exec.ends()),
        };
        let status = match found.life().phase() {
            Phase::Ready => Status::Created,
            Phase::Ended(_) | Phase::Failed => Status::Stopped,
            Phase::Starting | Phase::Running if container.is_paused() => Status::Paused,
            Phase::Starting => Status::Created,
            Phase::Running => Status::Running,
        };
        let ended = found.life().ended();
        let (bundle, created) = (container.bundle().to_owned(), container.created());
        Ok(Facts { bundle, pid, created, status, ends: ends.clone(), ended })
    }

    /// Removes an ended container or exec. `None`: it was an exec that never ran.
    pub async fn delete(&self, target: &Target) -> Result<(u32, Option<Ended>)> {
        match self.find(target)? {
            Found::Init(container) => {
                let ended = container.delete().await?;
                lock(&self.containers).remove(&target.container);
                Ok((container.pid(), Some(ended)))
            }
            Found::Exec(container, exec) => {
                let id = target.exec.as_deref().unwrap_or_default();
                Ok((exec.pid(), container.remove_exec(id)?))
            }
        }
    }

    /// Sets the size of a terminal.
    pub fn resize(&self, target: &Target, columns: u32, rows: u32) -> Result<()> {
        self.find(target)?.life().resize(&target.to_string(), columns, rows)
    }

    /// Closes the shim's hold on stdin: when its writer closes too, the process sees the end.
    pub fn close_stdin(&self, target: &Target) -> Result<()> {
        lock(&self.find(target)?.life().stdio).close_stdin();
        Ok(())
    }

    /// Connects fifos to the streams of a container.
    pub fn attach(&self, container: &str, what: &Attachment) -> Result<()> {
        let container = self.container(container)?;
        let mut stdio = lock(&container.life().stdio);
        stdio.attach(container.id(), &container.request().ends, what)
    }

    /// Ends an attachment.
    pub fn detach(&self, container: &str, attachment: &str) -> Result<()> {
        let container = self.container(container)?;
        let stdio = lock(&container.life().stdio);
        stdio.detach(attachment);
        Ok(())
    }

    /// Opens a container's log anew.
    pub fn reopen_log(&self, container: &str) -> Result<()> {
        let container = self.container(container)?;
        let stdio = lock(&container.life().stdio);
        stdio.reopen_logs()
    }

    /// Freezes a container.
    pub async fn pause(&self, container: &str) -> Result<()> {
        self.container(container)?.pause().await
    }

    /// Thaws a container.
    pub async fn resume(&self, container: &str) -> Result<()> {
        self.container(container)?.resume().await
    }

    /// Applies resources: JSON of the OCI spec's `linux.resources`.
    pub async fn update(&self, container: &str, resources: &[u8]) -> Result<()> {
        self.container(container)?.update(resources).await
    }

    /// Writes a container's state to a directory.
    pub async fn checkpoint(&self, container: &str, wanted: &Checkpoint) -> Result<()> {
        self.container(container)?.checkpoint(wanted).await
    }

    /// The processes of a container, as the kernel that they run in knows them.
    pub async fn members(&self, container: &str) -> Result<Vec<Member>> {
        let container = self.container(container)?;
        let pids = container.pids().await?;
        let execs = container.exec_pids();
        let exec = |pid| execs.iter().find(|(_, exec)| *exec == pid).map(|(id, _)| id.clone());
        Ok(pids.into_iter().map(|pid| Member { pid, exec: exec(pid) }).collect())
    }

    /// What is counted of a container.
    pub async fn figures(&self, container: &str) -> Result<Figures> {
        self.container(container)?.figures().await
    }

    async fn stop_making(&self, id: &str) {
        loop {
            let settled = self.settled.notified();
            let Some(Slot::Making(_, killed)) = lock(&self.containers).get(id).cloned() else {
                return;
            };
            killed.notify_one();
            settled.await;
        }
    }

    fn container(&self, id: &str) -> Result<Arc<Container>> {
        match lock(&self.containers).get(id) {
            Some(Slot::Made(container)) => Ok(Arc::clone(container)),
            Some(Slot::Making(..)) => Err(Error::state("use", id, "it is still being created")),
            None => Err(Error::NotFound { what: "container", id: id.to_owned() }),
        }
    }

    fn find(&self, target: &Target) -> Result<Found> {
        let container = self.container(&target.container)?;
        match &target.exec {
            None => Ok(Found::Init(container)),
            Some(id) => {
                let exec = container.exec(id)?;
                Ok(Found::Exec(container, exec))
            }
        }
    }
}

/// Removes what a dead shim left of a container: its processes, the runtime's state, the mount.
/// Nothing left is fine.
pub async fn clean_up(reaper: &Arc<Reaper>, id: &str, bundle: &Path) -> Result<()> {
    let root =
        Config::read(bundle).map_or_else(|_| bundle.join("rootfs"), |config| config.rootfs(bundle));
    if let Some(traces) = Traces::load(bundle) {
        if let Some(path) = &traces.cgroup {
            let place = Place::at(&Cgroups::detect()?, path)?;
            if tokio::time::timeout(DEATH, place.settle()).await.is_err() {
                let who = place.survivors().unwrap_or_default();
                return Err(Error::Undying { id: id.to_owned(), who });
            }
        }
        Runtime::new(traces.runtime, traces.flavour, Network::Host, Arc::clone(reaper))
            .delete(id, bundle)
            .await?;
    }
    rootfs::unmount(&root)
}
