//! A whole shim out of a [`Shim`]: what its author need not think of is done here.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use berth_process::plain::{self, Shim, Simple};
use berth_process::{
    Attachment, Cgroups, Config, ContainerRequest, Ended, Error, ExecRequest, Facts, Member, Place,
    Reaper, Result, Status, Target,
};
use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::runtime::{
    Checkpoint, Context, Runtime, RuntimeFactory, SandboxFacts, SandboxRequest, TaskOptions,
};

/// How long the containers of a sandbox that is stopped may take to die.
const DEATH: Duration = Duration::from_secs(8);
/// SIGKILL.
const KILL: u32 = 9;

/// The main function of a shim that is written as a [`Shim`].
pub fn main<S: Shim>() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some(plain::VERB) => plain::run_inside::<S>(),
        _ => crate::run::run::<Plain<S>>(),
    }
}

/// The sandbox, if the daemon uses the Sandbox API.
#[derive(Clone, Debug)]
enum Sandbox {
    Absent,
    Created { request: SandboxRequest, at: SystemTime },
    Ready { request: SandboxRequest, at: SystemTime },
    Ended { request: SandboxRequest, at: SystemTime, ended: Ended },
}

struct Plain<S> {
    context: Context,
    cgroups: Cgroups,
    tasks: Simple<S>,
    sandbox: watch::Sender<Sandbox>,
    /// Set when the sandbox is told to stop: nothing begins in it any more.
    stopping: AtomicBool,
    /// One start or stop of the sandbox at a time.
    starting: tokio::sync::Mutex<()>,
}

impl<S: Shim> RuntimeFactory for Plain<S> {
    const NAME: &'static str = S::NAME;

    fn make(context: Context, reaper: Arc<Reaper>) -> Result<Arc<dyn Runtime>> {
        let cgroups = Cgroups::detect()?;
        Ok(Arc::new(Self {
            context,
            tasks: Simple::new(reaper, cgroups.clone()),
            cgroups,
            sandbox: watch::Sender::new(Sandbox::Absent),
            stopping: AtomicBool::new(false),
            starting: tokio::sync::Mutex::default(),
        }))
    }

    async fn clean_up(id: &str, bundle: &Path, _: &Arc<Reaper>) -> Result<()> {
        Simple::<S>::clean_up(id, bundle).await
    }
}

impl<S: Shim> Plain<S> {
    fn now(&self) -> Sandbox {
        self.sandbox.borrow().clone()
    }

    fn itself(&self) -> Target {
        Target { container: self.context.id.clone(), exec: None }
    }

    fn wrong(&self, attempted: &'static str, state: &str) -> Error {
        Error::WrongState { attempted, id: self.context.id.clone(), state: state.to_owned() }
    }

    fn absent(&self) -> Error {
        Error::NotFound { what: "sandbox", id: self.context.id.clone() }
    }

    fn refuse_if_stopping(&self, attempted: &'static str) -> Result<()> {
        match self.stopping.load(Ordering::Relaxed) {
            true => Err(self.wrong(attempted, "the sandbox is being stopped or has ended")),
            false => Ok(()),
        }
    }

    /// Kills what still runs and sees it gone.
    async fn end_containers(&self) -> Result<()> {
        for container in self.tasks.ids() {
            let target = Target { container, exec: None };
            match self.tasks.kill(&target, KILL, true).await {
                // It has ended.
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
            if tokio::time::timeout(DEATH, self.tasks.wait(&target)).await.is_err() {
                let (what, id) = ("end container", target.container);
                return Err(Error::TimedOut { what, id, limit: DEATH });
            }
        }
        Ok(())
    }
}

#[async_trait]
impl<S: Shim> Runtime for Plain<S> {
    async fn create(&self, request: ContainerRequest, _: TaskOptions) -> Result<u32> {
        self.refuse_if_stopping("create a container in")?;
        self.tasks.create(request).await
    }

    async fn start(&self, target: &Target) -> Result<u32> {
        self.refuse_if_stopping("start a process in")?;
        self.tasks.start(target).await
    }

    async fn exec(&self, container: &str, request: ExecRequest) -> Result<()> {
        self.tasks.add_exec(container, request)
    }

    async fn kill(&self, target: &Target, signal: u32, all: bool) -> Result<()> {
        self.tasks.kill(target, signal, all).await
    }

    async fn wait(&self, target: &Target) -> Result<Ended> {
        self.tasks.wait(target).await
    }

    async fn delete(&self, target: &Target) -> Result<(u32, Option<Ended>)> {
        self.tasks.delete(target).await
    }

    fn facts(&self, target: &Target) -> Result<Facts> {
        self.tasks.facts(target)
    }

    fn containers(&self) -> Vec<String> {
        self.tasks.ids()
    }

    async fn members(&self, container: &str) -> Result<Vec<Member>> {
        self.tasks.members(container)
    }

    async fn metrics(&self, container: Option<&str>) -> Result<Metrics> {
        let figures = match container {
            Some(container) => self.tasks.figures(container)?,
            None => {
                let config = Config::read(&self.context.bundle)?;
                Place::at(&self.cgroups, Path::new(&config.linux.cgroups_path))?.figures()?
            }
        };
        Ok(Metrics::of(&figures))
    }

    async fn pause(&self, container: &str) -> Result<()> {
        self.tasks.pause(container)
    }

    async fn resume(&self, container: &str) -> Result<()> {
        self.tasks.resume(container)
    }

    async fn update(&self, container: &str, resources: &[u8]) -> Result<()> {
        self.tasks.update(container, resources)
    }

    async fn checkpoint(&self, container: &str, _: Checkpoint) -> Result<()> {
        let name = S::NAME;
        Err(Error::Unimplemented(format!("{name} writes no checkpoints ({container})")))
    }

    async fn resize(&self, target: &Target, columns: u32, rows: u32) -> Result<()> {
        self.tasks.resize(target, columns, rows)
    }

    async fn close_stdin(&self, target: &Target) -> Result<()> {
        self.tasks.close_stdin(target)
    }

    async fn reopen_log(&self, container: &str) -> Result<()> {
        self.tasks.reopen_log(container)
    }

    async fn attach(&self, container: &str, what: Attachment) -> Result<()> {
        self.tasks.attach(container, &what)
    }

    async fn detach(&self, container: &str, attachment: &str) -> Result<()> {
        self.tasks.detach(container, attachment)
    }

    async fn create_sandbox(&self, request: SandboxRequest) -> Result<()> {
        match self.now() {
            _ if request.id != self.context.id => Err(Error::Invalid(format!(
                "this is the shim of pod {}, not {}",
                self.context.id, request.id
            ))),
            Sandbox::Absent => {
                let at = SystemTime::now();
                self.sandbox.send_replace(Sandbox::Created { request, at });
                Ok(())
            }
            Sandbox::Created { request: there, .. }
            | Sandbox::Ready { request: there, .. }
            | Sandbox::Ended { request: there, .. } => match there == request {
                true => Err(Error::Exists { what: "sandbox", id: request.id }),
                false => Err(self.wrong("create", "it was created otherwise")),
            },
        }
    }

    async fn start_sandbox(&self) -> Result<SandboxFacts> {
        let _one = self.starting.lock().await;
        self.refuse_if_stopping("start")?;
        match self.now() {
            Sandbox::Absent => Err(self.absent()),
            Sandbox::Ended { .. } => Err(self.wrong("start", "it has ended")),
            Sandbox::Ready { .. } => self.sandbox(),
            Sandbox::Created { request, at } => {
                self.tasks.shim().start_sandbox(&request.bundle, &request.netns).await?;
                self.sandbox.send_replace(Sandbox::Ready { request, at });
                self.sandbox()
            }
        }
    }

    async fn stop_sandbox(&self) -> Result<()> {
        self.stopping.store(true, Ordering::Relaxed);
        let _one = self.starting.lock().await;
        self.end_containers().await?;
        let now = self.now();
        if let Sandbox::Ready { .. } = now {
            self.tasks.shim().stop_sandbox().await?;
        }
        if let Sandbox::Created { request, at } | Sandbox::Ready { request, at } = now {
            let now = SystemTime::now();
            let ended = Ended { code: 0, at: now, oom_kills: 0, dropped_lines: 0 };
            self.sandbox.send_replace(Sandbox::Ended { request, at, ended });
        }
        Ok(())
    }

    async fn wait_sandbox(&self) -> Result<Ended> {
        if let Sandbox::Absent = self.now() {
            return self.tasks.wait(&self.itself()).await;
        }
        let mut changes = self.sandbox.subscribe();
        let over = changes.wait_for(|sandbox| matches!(sandbox, Sandbox::Ended { .. })).await;
        match over.as_deref() {
            Ok(Sandbox::Ended { ended, .. }) => Ok(*ended),
            _ => Err(self.absent()),
        }
    }

    fn sandbox(&self) -> Result<SandboxFacts> {
        let (created, ready, ended) = match self.now() {
            // As a task, if somebody made it that way.
            Sandbox::Absent => {
                let facts = self.tasks.facts(&self.itself()).map_err(|_| self.absent())?;
                let ready = facts.status == Status::Running;
                let (pid, created, ended) = (facts.pid, facts.created, facts.ended);
                return Ok(SandboxFacts { pid, ready, created, ended });
            }
            Sandbox::Created { at, .. } => (at, false, None),
            Sandbox::Ready { at, .. } => (at, true, None),
            Sandbox::Ended { at, ended, .. } => (at, false, Some(ended)),
        };
        Ok(SandboxFacts { pid: 0, ready, created, ended })
    }
}
