//! A command in a container of a [`Shim`].

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use berth_sys::Signal;

use super::Shim;
use super::container::{Container, open};
use super::launch::{Launch, Plan, Process};
use super::spec::Program;
use crate::error::{Error, Result};
use crate::exec::ExecRequest;
use crate::place::Place;
use crate::process::{Ended, Life, Phase, signal};
use crate::pump::lock;
use crate::stdio::{Ends, Owner, Stdio};

/// Output of a command that somebody else still holds open after its end is not waited for longer.
const DRAIN: Duration = Duration::from_secs(2);
/// How long a signal waits for the start to be over.
const STARTED: Duration = Duration::from_secs(10);

/// One command.
#[derive(Debug)]
pub(super) struct Exec {
    pub(super) id: String,
    pub(super) ends: Ends,
    pub(super) life: Life,
    program: Program,
    process: OnceLock<Process>,
}

impl Exec {
    pub(super) fn new(request: ExecRequest) -> Result<Self> {
        let program = serde_json::from_slice(&request.process)
            .map_err(|source| Error::Json { what: "the process of an exec".to_owned(), source })?;
        let life = Life::new(Stdio::default());
        let (id, ends) = (request.id, request.ends);
        Ok(Self { id, ends, life, program, process: OnceLock::new() })
    }

    /// Its pid; 0 before it has one.
    pub(super) fn pid(&self) -> u32 {
        self.process.get().map_or(0, Process::pid)
    }

    pub(super) async fn start<S: Shim>(
        self: &Arc<Self>,
        container: &Arc<Container<S>>,
    ) -> Result<u32> {
        if !self.life.pass(Phase::Ready, Phase::Starting) {
            return Err(Error::state("start", &self.id, "it has been started before"));
        }
        let launched = self.launch(container).await;
        match (launched, self.process.get()) {
            (Ok(()), _) => {
                self.life.pass(Phase::Starting, Phase::Running);
                Ok(self.pid())
            }
            (Err(error), None) => {
                self.life.drain(Duration::ZERO).await;
                self.life.fail();
                Err(error)
            }
            // There is a process, and an attendant that reports its end.
            (Err(error), Some(process)) => {
                let _ = process.signal(Signal::KILL);
                Err(error)
            }
        }
    }

    async fn launch<S: Shim>(self: &Arc<Self>, container: &Arc<Container<S>>) -> Result<()> {
        let (mut stdio, streams) = open(&self.ends, Owner::Exec).await?;
        // A process that is born in a frozen cgroup would stop this one, which waits for its exec.
        if container.is_paused() {
            return Err(Error::state("exec in", &container.bundle.id, "it is paused"));
        }
        stdio.begin(&container.shared.buffers)?;
        *lock(&self.life.stdio) = stdio;
        let (namespaces, mounts) = Launch::namespaces_of(container.process.pid())?;
        let launch = Launch {
            reaper: Arc::clone(&container.shared.reaper),
            plan: Plan {
                id: container.bundle.id.clone(),
                bundle: container.bundle.path.clone(),
                command: Some(self.program.clone()),
                terminal: self.ends.terminal,
            },
            program: self.program.clone(),
            streams,
            cgroup: container
                .cgroup("exec in")
                .map(|cgroup| cgroup.enter_files())
                .unwrap_or_default(),
            namespaces,
            mounts: Some(mounts),
        };
        let process = container.shared.shim.exec(&container.bundle, launch).await?;
        let process = self.process.get_or_init(|| process);
        tokio::spawn(Arc::clone(self).attend(Arc::clone(container)));
        container.shared.shim.start(process).await
    }

    /// Waits for the end and reports it.
    async fn attend<S: Shim>(self: Arc<Self>, container: Arc<Container<S>>) {
        let Some(process) = self.process.get() else { return };
        let code = container.shared.shim.wait(process).await;
        let at = SystemTime::now();
        self.life.drain(DRAIN).await;
        let dropped_lines = lock(&self.life.stdio).dropped_lines();
        self.life.end(Ended { code, at, oom_kills: 0, dropped_lines });
    }

    /// Sends a signal; SIGKILL goes to what descends from it as well.
    pub(super) async fn kill<S: Shim>(&self, container: &Container<S>, number: u32) -> Result<()> {
        let wanted = signal(number)?;
        if !self.life.past_start(STARTED).await && wanted != Signal::KILL {
            return Err(Error::TimedOut { what: "start", id: self.id.clone(), limit: STARTED });
        }
        let Some(process) = self.process.get() else {
            return Err(Error::state("signal", &self.id, "it has not been started"));
        };
        if self.life.ended().is_some() {
            return Err(Error::NotFound { what: "running exec", id: self.id.clone() });
        }
        if wanted == Signal::KILL {
            // Reaped, its number may be another process's already.
            Place::kill_tree(process.raw_pid(), process.has_ended());
        }
        container.shared.shim.kill(process, wanted).await
    }

    pub(super) fn ended(&self) -> Result<Option<Ended>> {
        match self.life.phase() {
            // Whoever waits for it learns that it will never be.
            Phase::Ready | Phase::Failed => {
                self.life.fail();
                Ok(None)
            }
            Phase::Ended(ended) => Ok(Some(ended)),
            Phase::Starting | Phase::Running => {
                Err(Error::state("delete", &self.id, "it still runs"))
            }
        }
    }
}
