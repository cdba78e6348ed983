//! A pod of plain namespaces: its containers are [`Tasks`], and the pod itself is at most a pause.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use berth_shim::process::pause::{self, OwnNamespaces, Pause, PauseRequest};
use berth_shim::process::{
    Attachment, Cgroups, Config, ContainerRequest, Ended, Error, ExecRequest, Facts, Figures,
    Member, Place, Reaper, Result, Roots, RuntimeOptions, Target, Tasks, clean_up,
};
use berth_shim::{
    Checkpoint, Context, Metrics, PodRequest, Runtime, RuntimeFactory, SandboxFacts,
    SandboxRequest, TaskOptions, async_trait,
};
use tokio::sync::watch;

/// How long the containers of a sandbox that is stopped may take to die.
const DEATH: Duration = Duration::from_secs(8);
/// The program of the pause, beside our own or on PATH.
const HELPER: &str = "berth-helper";
/// SIGKILL.
const KILL: u32 = 9;

/// Makes [`Namespaces`].
pub(crate) enum Factory {}

impl RuntimeFactory for Factory {
    const NAME: &'static str = "io.containerd.berth.v1";

    fn make(context: Context, reaper: Arc<Reaper>) -> Result<Arc<dyn Runtime>> {
        let cgroups = Cgroups::detect()?;
        let sockets = context.sockets.clone();
        Ok(Arc::new(Namespaces {
            tasks: Tasks::new(Arc::clone(&reaper), cgroups.clone(), sockets),
            context,
            reaper,
            cgroups,
            sandbox: watch::Sender::new(Sandbox::Absent),
            stopping: AtomicBool::new(false),
            starting: tokio::sync::Mutex::new(()),
        }))
    }

    async fn clean_up(id: &str, bundle: &Path, reaper: &Arc<Reaper>) -> Result<()> {
        clean_up(reaper, id, bundle).await?;
        pause::clean_up(&Cgroups::detect()?, bundle).await
    }
}

/// The sandbox, if the daemon uses the Sandbox API.
#[derive(Clone, Debug)]
enum Sandbox {
    Absent,
    Created { request: SandboxRequest, at: SystemTime },
    Ready { request: SandboxRequest, at: SystemTime, pause: Option<Arc<Pause>> },
    Ended { request: SandboxRequest, at: SystemTime, ended: Ended },
}

struct Namespaces {
    context: Context,
    reaper: Arc<Reaper>,
    cgroups: Cgroups,
    tasks: Tasks,
    sandbox: watch::Sender<Sandbox>,
    /// Set when the sandbox is told to stop: nothing begins in it any more.
    stopping: AtomicBool,
    /// One start or stop of the sandbox at a time.
    starting: tokio::sync::Mutex<()>,
}

impl Namespaces {
    fn now(&self) -> Sandbox {
        self.sandbox.borrow().clone()
    }

    fn wrong(&self, attempted: &'static str, state: &str) -> Error {
        Error::WrongState { attempted, id: self.context.id.clone(), state: state.to_owned() }
    }

    fn absent(&self) -> Error {
        Error::NotFound { what: "sandbox", id: self.context.id.clone() }
    }

    /// Starts the pause if the sandbox's spec has a PID namespace to be made.
    async fn pause(&self, request: &SandboxRequest) -> Result<Option<Arc<Pause>>> {
        if let Some(pod) = request.pod.as_ref().filter(|_| !has_spec(request)) {
            let request = pause_of(request, pod)?;
            return Pause::start(&self.reaper, &self.cgroups, &request).await.map(Some);
        }
        let config = Config::read(&request.bundle)?;
        if !config.namespace("pid").is_some_and(|entry| entry.path.as_os_str().is_empty()) {
            return Ok(None);
        }
        let path = |entry: &berth_shim::process::NamespaceEntry| entry.path.clone();
        let user = config.namespace("user").map(path).filter(|path| !path.as_os_str().is_empty());
        let request = PauseRequest {
            helper: helper()?,
            bundle: request.bundle.clone(),
            user,
            cgroup: Some(config.linux.cgroups_path).filter(|path| !path.is_empty()),
            own: None,
        };
        Pause::start(&self.reaper, &self.cgroups, &request).await.map(Some)
    }

    /// Makes the pause's death the sandbox's.
    fn watch(&self, pause: &Arc<Pause>) {
        let (pause, sandbox) = (Arc::clone(pause), self.sandbox.clone());
        tokio::spawn(async move {
            if let Some(ended) = pause.wait().await {
                end(&sandbox, ended);
            }
        });
    }

    fn refuse_if_stopping(&self, attempted: &'static str) -> Result<()> {
        match self.stopping.load(Ordering::Relaxed) {
            true => Err(self.wrong(attempted, "the sandbox is being stopped or has ended")),
            false => Ok(()),
        }
    }

    /// Kills what still runs and sees it gone.
    async fn end_containers(&self) -> Result<()> {
        if tokio::time::timeout(DEATH, self.tasks.stop_all_making()).await.is_err() {
            let (what, id) = ("give up a container that is being created in", &self.context.id);
            return Err(Error::TimedOut { what, id: id.clone(), limit: DEATH });
        }
        let targets: Vec<Target> = self
            .tasks
            .ids()
            .into_iter()
            .map(|container| Target { container, exec: None })
            .collect();
        for target in &targets {
            match self.tasks.kill(target, KILL, true).await {
                // It has ended.
                Ok(()) | Err(Error::NotFound { .. } | Error::WrongState { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        for target in targets {
            if tokio::time::timeout(DEATH, self.tasks.wait(&target)).await.is_err() {
                let (what, id) = ("end container", target.container);
                return Err(Error::TimedOut { what, id, limit: DEATH });
            }
        }
        Ok(())
    }

    /// The sandbox as a task, if somebody made it that way.
    fn as_task(&self) -> Result<SandboxFacts> {
        let target = Target { container: self.context.id.clone(), exec: None };
        let facts = self.tasks.facts(&target).map_err(|_| self.absent())?;
        Ok(SandboxFacts {
            pid: facts.pid,
            ready: facts.status == berth_shim::process::Status::Running,
            created: facts.created,
            ended: facts.ended,
        })
    }
}

/// Whether the daemon has written the sandbox's namespaces and cgroup down. containerd's CRI has not:
/// its containers look for them in the sandbox's process.
fn has_spec(request: &SandboxRequest) -> bool {
    request.bundle.join("config.json").exists()
}

/// A pause in namespaces of its own, as CRI wants the pod.
fn pause_of(request: &SandboxRequest, pod: &PodRequest) -> Result<PauseRequest> {
    if pod.user_namespace {
        let message = "a user namespace for a sandbox that has no spec; let the sandbox be a task";
        return Err(Error::Unimplemented(message.to_owned()));
    }
    let own = OwnNamespaces {
        net: Some(request.netns.clone()).filter(|path| !path.as_os_str().is_empty()),
        ipc: !pod.node_ipc,
        hostname: pod.hostname.clone(),
        sysctls: pod.sysctls.clone(),
    };
    // systemd's name of a slice is no path.
    let cgroup = Some(pod.cgroup_parent.clone()).filter(|path| path.starts_with('/'));
    let (helper, bundle, user) = (helper()?, request.bundle.clone(), None);
    Ok(PauseRequest { helper, bundle, user, cgroup, own: Some(own) })
}

fn end(sandbox: &watch::Sender<Sandbox>, ended: Ended) {
    sandbox.send_if_modified(|sandbox| match sandbox {
        Sandbox::Absent | Sandbox::Ended { .. } => false,
        Sandbox::Created { request, at } | Sandbox::Ready { request, at, .. } => {
            *sandbox = Sandbox::Ended { request: request.clone(), at: *at, ended };
            true
        }
    });
}

fn helper() -> Result<PathBuf> {
    let own = std::env::current_exe().ok();
    let beside = own.and_then(|own| own.parent().map(|dir| dir.join(HELPER)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|dir| dir.join(HELPER));
    beside.into_iter().chain(on_path).find(|path| path.is_file()).ok_or_else(|| {
        Error::Invalid(format!("{HELPER} is neither beside the shim's program nor on PATH"))
    })
}

#[async_trait]
impl Runtime for Namespaces {
    async fn create(&self, request: ContainerRequest, options: TaskOptions) -> Result<u32> {
        self.refuse_if_stopping("create a container in")?;
        let TaskOptions { binary, root, systemd_cgroup } = options;
        let roots = Roots::new(&self.context.state, &self.context.namespace);
        let options = RuntimeOptions::resolve(&binary, &root, systemd_cgroup, &roots)?;
        self.tasks.create(request, options).await
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
        self.tasks.members(container).await
    }

    async fn metrics(&self, container: Option<&str>) -> Result<Metrics> {
        let figures: Figures = match container {
            Some(container) => self.tasks.figures(container).await?,
            None => {
                let path = match self.now() {
                    Sandbox::Created { request, .. } | Sandbox::Ready { request, .. }
                        if !has_spec(&request) =>
                    {
                        request.pod.unwrap_or_default().cgroup_parent
                    }
                    _ => Config::read(&self.context.bundle)?.linux.cgroups_path,
                };
                let path = PathBuf::from(path);
                Place::at(&self.cgroups, &path)?.figures()?
            }
        };
        Ok(Metrics::of(&figures))
    }

    async fn pause(&self, container: &str) -> Result<()> {
        self.tasks.pause(container).await
    }

    async fn resume(&self, container: &str) -> Result<()> {
        self.tasks.resume(container).await
    }

    async fn update(&self, container: &str, resources: &[u8]) -> Result<()> {
        self.tasks.update(container, resources).await
    }

    async fn checkpoint(&self, container: &str, checkpoint: Checkpoint) -> Result<()> {
        self.tasks.checkpoint(container, &checkpoint).await
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
        if request.id != self.context.id {
            let own = &self.context.id;
            return Err(Error::Invalid(format!(
                "this is the shim of pod {own}, not {}",
                request.id
            )));
        }
        match self.now() {
            Sandbox::Absent => {
                let at = SystemTime::now();
                self.sandbox.send_replace(Sandbox::Created { request, at });
                Ok(())
            }
            Sandbox::Created { request: there, .. }
            | Sandbox::Ready { request: there, .. }
            | Sandbox::Ended { request: there, .. } => {
                if there == request {
                    return Err(Error::Exists { what: "sandbox", id: request.id });
                }
                Err(self.wrong("create", "it was created otherwise"))
            }
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
                let pause = self.pause(&request).await?;
                if let Some(pause) = &pause {
                    self.watch(pause);
                }
                self.sandbox.send_replace(Sandbox::Ready { request, at, pause });
                self.sandbox()
            }
        }
    }

    async fn stop_sandbox(&self) -> Result<()> {
        self.stopping.store(true, Ordering::Relaxed);
        let _one = self.starting.lock().await;
        self.end_containers().await?;
        if let Sandbox::Ready { pause: Some(pause), .. } = self.now() {
            pause.stop().await?;
        }
        let at = SystemTime::now();
        end(&self.sandbox, Ended { code: 0, at, oom_kills: 0, dropped_lines: 0 });
        Ok(())
    }

    async fn wait_sandbox(&self) -> Result<Ended> {
        if let Sandbox::Absent = self.now() {
            self.as_task()?;
            return self
                .tasks
                .wait(&Target { container: self.context.id.clone(), exec: None })
                .await;
        }
        let mut changes = self.sandbox.subscribe();
        let over = changes.wait_for(|sandbox| matches!(sandbox, Sandbox::Ended { .. })).await;
        match over.as_deref() {
            Ok(Sandbox::Ended { ended, .. }) => Ok(*ended),
            _ => Err(self.absent()),
        }
    }

    fn sandbox(&self) -> Result<SandboxFacts> {
        let (created, pause, ready, ended) = match self.now() {
            Sandbox::Absent => return self.as_task(),
            Sandbox::Created { at, .. } => (at, None, false, None),
            Sandbox::Ready { at, pause, .. } => (at, pause, true, None),
            Sandbox::Ended { at, ended, .. } => (at, None, false, Some(ended)),
        };
        // Between its death and the task that reports it.
        let dead = pause.as_ref().and_then(|pause| pause.ended());
        let pid = pause.map_or(0, |pause| pause.pid());
        Ok(SandboxFacts { pid, ready: ready && dead.is_none(), created, ended: ended.or(dead) })
    }
}
