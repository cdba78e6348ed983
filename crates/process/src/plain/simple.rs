//! All containers of one pod of a [`Shim`].

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use berth_cgroup::Cgroups;

use super::Shim;
use super::container::{Container, Shared, clean_up};
use super::exec::Exec;
use super::spec::Bundle;
use crate::attach::Attachment;
use crate::container::ContainerRequest;
use crate::error::{Error, Result};
use crate::exec::ExecRequest;
use crate::place::Figures;
use crate::process::{Ended, Life, Phase};
use crate::pump::{Buffers, lock};
use crate::reaper::Reaper;
use crate::tasks::{Facts, Member, Status, Target};

/// The containers of one pod.
#[derive(Debug)]
pub struct Simple<S> {
    shared: Arc<Shared<S>>,
    containers: Mutex<BTreeMap<String, Arc<Container<S>>>>,
    /// One is made at a time: a repeat of a request under way waits for its outcome.
    making: tokio::sync::Mutex<()>,
}

enum Found<S> {
    Init(Arc<Container<S>>),
    Exec(Arc<Container<S>>, Arc<Exec>),
}

impl<S: Shim> Found<S> {
    fn life(&self) -> &Life {
        match self {
            Self::Init(container) => &container.life,
            Self::Exec(_, exec) => &exec.life,
        }
    }
}

impl<S: Shim> Simple<S> {
    /// No container yet.
    pub fn new(reaper: Arc<Reaper>, cgroups: Cgroups) -> Self {
        let (shim, buffers) = (S::default(), Arc::<Buffers>::default());
        let shared = Arc::new(Shared { shim, reaper, buffers, cgroups });
        Self { shared, containers: Mutex::default(), making: tokio::sync::Mutex::default() }
    }

    /// The author's part.
    pub fn shim(&self) -> &S {
        &self.shared.shim
    }

    /// The ids of all containers.
    pub fn ids(&self) -> Vec<String> {
        lock(&self.containers).keys().cloned().collect()
    }

    /// Makes a container; answers its pid.
    ///
    /// # Errors
    /// Exists if there is one of this id made by the same request; WrongState if the request was
    /// another.
    pub async fn create(&self, request: ContainerRequest) -> Result<u32> {
        let _one = self.making.lock().await;
        let id = request.id.clone();
        match lock(&self.containers).get(&id) {
            None => {}
            Some(there) if there.request == request => {
                return Err(Error::Exists { what: "container", id });
            }
            Some(_) => {
                return Err(Error::state("create", id, "a container made otherwise has this id"));
            }
        }
        let container = Container::create(request, Arc::clone(&self.shared)).await?;
        let pid = container.process.pid();
        lock(&self.containers).insert(id, container);
        Ok(pid)
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
        let container = self.container(container)?;
        if container.life.phase() != Phase::Running || container.is_paused() {
            return Err(Error::state("exec in", &container.bundle.id, "it does not run"));
        }
        let mut execs = lock(&container.execs);
        if execs.contains_key(&request.id) {
            return Err(Error::Exists { what: "exec", id: request.id });
        }
        execs.insert(request.id.clone(), Arc::new(Exec::new(request)?));
        Ok(())
    }

    /// Sends a signal.
    pub async fn kill(&self, target: &Target, signal: u32, all: bool) -> Result<()> {
        match self.find(target)? {
            Found::Init(container) => container.kill(signal, all).await,
            Found::Exec(container, exec) => exec.kill(&container, signal).await,
        }
    }

    /// Waits for the end of a container or exec; it may be waited for before its start.
    pub async fn wait(&self, target: &Target) -> Result<Ended> {
        let found = self.find(target)?;
        let ended = found.life().wait().await;
        ended.ok_or_else(|| Error::state("wait for", target.to_string(), "its start failed"))
    }

    /// What is known of a container or exec.
    pub fn facts(&self, target: &Target) -> Result<Facts> {
        let found = self.find(target)?;
        let (container, pid, ends) = match &found {
            Found::Init(container) => (container, container.process.pid(), &container.request.ends),
            Found::Exec(container, exec) => (container, exec.pid(), &exec.ends),
        };
        let status = match found.life().phase() {
            Phase::Ended(_) | Phase::Failed => Status::Stopped,
            Phase::Running if container.is_paused() => Status::Paused,
            Phase::Running => Status::Running,
            Phase::Ready | Phase::Starting => Status::Created,
        };
        let (bundle, created) = (container.bundle.path.clone(), container.created);
        let ended = found.life().ended();
        Ok(Facts { bundle, pid, created, status, ends: ends.clone(), ended })
    }

    /// Removes an ended container or exec. `None`: it was an exec that never ran.
    pub async fn delete(&self, target: &Target) -> Result<(u32, Option<Ended>)> {
        match self.find(target)? {
            Found::Init(container) => {
                let ended = container.delete().await?;
                lock(&self.containers).remove(&target.container);
                Ok((container.process.pid(), Some(ended)))
            }
            Found::Exec(container, exec) => {
                let ended = exec.ended()?;
                lock(&container.execs).remove(&exec.id);
                Ok((exec.pid(), ended))
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
        let mut stdio = lock(&container.life.stdio);
        stdio.attach(&container.bundle.id, &container.request.ends, what)
    }

    /// Ends an attachment.
    pub fn detach(&self, container: &str, attachment: &str) -> Result<()> {
        let container = self.container(container)?;
        let stdio = lock(&container.life.stdio);
        stdio.detach(attachment);
        Ok(())
    }

    /// Opens a container's log anew.
    pub fn reopen_log(&self, container: &str) -> Result<()> {
        let container = self.container(container)?;
        let stdio = lock(&container.life.stdio);
        stdio.reopen_logs()
    }

    /// Freezes a container.
    pub fn pause(&self, container: &str) -> Result<()> {
        self.container(container)?.pause()
    }

    /// Thaws a container.
    pub fn resume(&self, container: &str) -> Result<()> {
        self.container(container)?.resume()
    }

    /// Applies resources: JSON of the OCI spec's `linux.resources`.
    pub fn update(&self, container: &str, resources: &[u8]) -> Result<()> {
        self.container(container)?.update(resources)
    }

    /// The processes of a container.
    pub fn members(&self, container: &str) -> Result<Vec<Member>> {
        let container = self.container(container)?;
        let pids = match container.place() {
            Some(place) => place.pids()?,
            None => vec![container.process.pid()],
        };
        let execs = lock(&container.execs);
        let exec = |pid| execs.values().find(|exec| exec.pid() == pid).map(|exec| exec.id.clone());
        Ok(pids.into_iter().map(|pid| Member { pid, exec: exec(pid) }).collect())
    }

    /// What the kernel counts for a container's cgroup.
    pub fn figures(&self, container: &str) -> Result<Figures> {
        let container = self.container(container)?;
        container.cgroup("measure")?;
        match container.place() {
            Some(place) => place.figures(),
            None => Err(Error::state("measure", &container.bundle.id, "it has no cgroup")),
        }
    }

    fn container(&self, id: &str) -> Result<Arc<Container<S>>> {
        let found = lock(&self.containers).get(id).cloned();
        found.ok_or_else(|| Error::NotFound { what: "container", id: id.to_owned() })
    }

    fn find(&self, target: &Target) -> Result<Found<S>> {
        let container = self.container(&target.container)?;
        let Some(id) = &target.exec else { return Ok(Found::Init(container)) };
        let exec = lock(&container.execs).get(id).cloned();
        match exec {
            Some(exec) => Ok(Found::Exec(container, exec)),
            None => Err(Error::NotFound { what: "exec", id: id.clone() }),
        }
    }

    /// Removes what a dead shim left of a container. Nothing left is fine.
    pub async fn clean_up(id: &str, bundle: &Path) -> Result<()> {
        if !bundle.join("config.json").exists() {
            return Ok(());
        }
        clean_up(&S::default(), &Cgroups::detect()?, &Bundle::read(id, bundle)?).await
    }
}
