//! The pods of this node, as CRI asks for them.

use std::sync::Arc;
use std::time::Duration;

use berth_pod::machine::{Machine, Nanos, Reply, Request};
use berth_pod::record::{PodRecord, PodResources};
use berth_pod::spec::{Admitted, Checkpoint, ContainerSpec, Resources, SandboxSpec};
use berth_pod::{ContainerId, Kind, SandboxId};
use tokio::sync::mpsc;

use crate::command::not_running;
use crate::effect::restore::{self, Checkpointed};
use crate::effect::{Context, Trouble, cancel, checkpoint, connection, limit};
use crate::events::Listening;
use crate::exec;
use crate::figures::Step;
use crate::handlers::{Chosen, Offered};
use crate::layout::Layout;
use crate::registry::{ask, not_found};
use crate::settings::Handler;
use crate::shared::Shared;
use crate::start::{self, Parts};
use crate::view::{ContainerState, ContainerView, NodeReport, PodView};
use crate::{Error, nri, pod_task};

/// The pods of this node. Cheap to clone.
#[derive(Clone)]
pub struct Node {
    pub(crate) shared: Arc<Shared>,
}

/// What a command run in a container gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Standard output, at most 16 MiB.
    pub stdout: Vec<u8>,
    /// Standard error, at most 16 MiB.
    pub stderr: Vec<u8>,
    /// Exit code; 128 + n when a signal ended it.
    pub exit_code: i32,
}

impl Node {
    /// Fences the jobs of a dead daemon, loads the records and adopts what lives.
    ///
    /// # Errors
    /// The records, the cgroups or the directories cannot be used.
    pub async fn start(parts: Parts) -> Result<Self, Error> {
        Ok(Self { shared: start::start(parts).await? })
    }

    pub(crate) fn over(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared) }
    }

    /// Tells NRI plugins that the daemon ends, and ends the programs of those that it has started.
    pub async fn end_plugins(&self) {
        self.shared.plugins.shut_down().await;
    }

    /// Runs a sandbox, joins one under way, or answers the id of the equal one that is ready.
    ///
    /// # Errors
    /// Exists, WrongState, or whatever stopped a step.
    pub async fn run_sandbox(&self, spec: Admitted<SandboxSpec>) -> Result<SandboxId, Error> {
        let (registry, name) = (&self.shared.registry, &spec.spec.name);
        loop {
            let register = |chosen: &Chosen| registry.named_or(name, || self.make(&spec, chosen));
            let (id, queue) = match self.shared.handlers.begin(&spec.spec, register) {
                Ok(begun) => begun,
                // A pod that is there already lives by what it was begun with.
                Err(why) => registry.named(name).ok_or(why)?,
            };
            let request = Request::RunSandbox { digest: spec.digest.clone() };
            match self.ask(&id, &queue, request).await? {
                Some(Reply::Anew) | None => {} // what had the name is gone: begin anew
                Some(_) => return Ok(id),
            }
        }
    }

    /// The handlers that pods can be begun with now.
    pub fn handlers(&self) -> Arc<Offered> {
        self.shared.handlers.offered()
    }

    /// New pods are begun with these from now on; those that are there live by what they were begun
    /// with, to their end.
    pub fn offer(&self, handlers: Offered) {
        self.shared.handlers.offer(handlers);
        self.shared.tidy_handlers();
    }

    /// What a pod was begun with; none if that is lost, and its handler gone.
    pub fn handler_of(&self, pod: &PodView) -> Option<Arc<Handler>> {
        self.shared.handlers.of(&pod.record)
    }

    fn make(
        &self,
        spec: &Admitted<SandboxSpec>,
        chosen: &Chosen,
    ) -> (SandboxId, mpsc::UnboundedSender<pod_task::Message>) {
        let id = SandboxId::from_random(random());
        let (own, queue) = mpsc::unbounded_channel();
        let (boot, now) = (self.shared.boot_id.clone(), self.shared.now());
        let mut record = PodRecord::new(id.clone(), boot, spec.clone(), chosen.name.clone(), now);
        record.settings.clone_from(&chosen.digest);
        pod_task::start(&self.shared, Machine::new(record), None, (own.clone(), queue));
        (id, own)
    }

    /// Stops a sandbox and its containers; an unknown id is success. `id` may be a unique prefix.
    ///
    /// # Errors
    /// A process that cannot be killed is named.
    pub async fn stop_sandbox(&self, id: &str) -> Result<(), Error> {
        self.pod(id, Request::StopSandbox).await
    }

    /// Removes a sandbox and its containers; an unknown id is success.
    ///
    /// # Errors
    /// A process that cannot be killed is named.
    pub async fn remove_sandbox(&self, id: &str) -> Result<(), Error> {
        self.pod(id, Request::RemoveSandbox).await
    }

    async fn pod(&self, id: &str, request: Request) -> Result<(), Error> {
        match self.shared.registry.sandbox(id) {
            Ok((id, entry)) => self.ask(&id, &entry.queue, request).await.map(drop),
            Err(why) if why.kind() == Kind::NotFound => Ok(()),
            Err(why) => Err(why),
        }
    }

    /// Every listed pod.
    pub fn sandboxes(&self) -> Vec<Arc<PodView>> {
        self.shared.registry.views().into_iter().filter(|v| v.listed).collect()
    }

    /// One listed pod by id or unique prefix.
    ///
    /// # Errors
    /// NotFound, or Invalid when the prefix stands for several.
    pub fn sandbox(&self, id: &str) -> Result<Arc<PodView>, Error> {
        let (full, entry) = self.shared.registry.sandbox(id)?;
        let view = entry.view.filter(|v| v.listed);
        view.ok_or_else(|| not_found("sandbox", full.as_str()))
    }

    /// Everything that happens to pods and containers from now on, as they come to be listed.
    pub fn listen(&self) -> Listening {
        self.shared.feed.listen()
    }

    /// Ends every listening: the daemon ends.
    pub fn end_listening(&self) {
        self.shared.feed.end();
    }

    /// Creates a container in a ready sandbox.
    ///
    /// # Errors
    /// NotFound, WrongState, Exists, or whatever stopped a step.
    pub async fn create_container(
        &self,
        sandbox: &str,
        spec: Admitted<ContainerSpec>,
    ) -> Result<ContainerId, Error> {
        let (full, entry) = self.shared.registry.sandbox(sandbox)?;
        let request = Request::CreateContainer(ContainerId::from_random(random()), Box::new(spec));
        match self.ask(&full, &entry.queue, request).await? {
            Some(Reply::Container(id)) => Ok(id),
            Some(_) | None => Err(not_found("sandbox", full.as_str())),
        }
    }

    /// Starts a created container; running already is success.
    ///
    /// # Errors
    /// NotFound, WrongState, or why it cannot be started: it is then EXITED, StartError.
    pub async fn start_container(&self, id: &str) -> Result<(), Error> {
        let (id, pod, entry) = self.shared.registry.container(id)?;
        let done = self.ask(&pod, &entry.queue, Request::StartContainer(id.clone())).await?;
        done.map(drop).ok_or_else(|| not_found("container", id.as_str()))
    }

    /// Stops a container within a grace; an unknown id is success.
    ///
    /// # Errors
    /// A process that cannot be killed is named.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error> {
        let grace = Nanos::try_from(grace.as_nanos()).unwrap_or(Nanos::MAX);
        self.on_container(id, |id| Request::StopContainer(id, grace)).await
    }

    /// Removes a container, killing it if it runs; an unknown id is success.
    ///
    /// # Errors
    /// A process that cannot be killed is named.
    pub async fn remove_container(&self, id: &str) -> Result<(), Error> {
        self.on_container(id, Request::RemoveContainer).await
    }

    async fn on_container(
        &self,
        id: &str,
        request: impl FnOnce(ContainerId) -> Request,
    ) -> Result<(), Error> {
        match self.shared.registry.container(id) {
            Ok((id, pod, entry)) => self.ask(&pod, &entry.queue, request(id)).await.map(drop),
            Err(why) if why.kind() == Kind::NotFound => Ok(()),
            Err(why) => Err(why),
        }
    }

    /// Every listed container of every pod.
    pub fn containers(&self) -> Vec<Arc<ContainerView>> {
        let pods = self.shared.registry.views();
        pods.iter().filter(|v| v.listed).flat_map(|v| v.containers.iter().cloned()).collect()
    }

    /// One listed container by id or unique prefix.
    ///
    /// # Errors
    /// NotFound, or Invalid when the prefix stands for several.
    pub fn container(&self, id: &str) -> Result<Arc<ContainerView>, Error> {
        self.shared.registry.container_view(id)
    }

    /// Changes a container's limits, before or after its start; what is 0 or empty stays.
    ///
    /// # Errors
    /// NotFound, WrongState, Invalid, or what the runtime says.
    pub async fn update_resources(&self, id: &str, asked: Resources) -> Result<(), Error> {
        let view = self.container(id)?;
        let id = view.id().as_str();
        let (_, entry) = self.shared.registry.sandbox(view.sandbox.as_str())?;
        let Some(pod) = entry.view else { return Err(not_found("container", id)) };
        let asked = nri::update_container(&self.shared, (&pod.record, &view.record), asked).await?;
        self.set_resources(id, asked).await?;
        if let Ok(view) = self.container(id) {
            self.shared.plugins.updated(&self.shared, &pod.record, Some(&view.record));
        }
        Ok(())
    }

    /// The same, and no plugin is asked: it is one that wants it, or they have been.
    pub(crate) async fn set_resources(&self, id: &str, asked: Resources) -> Result<(), Error> {
        let view = self.container(id)?;
        let (id, pod, entry) = self.shared.registry.container(view.id().as_str())?;
        let request = Request::UpdateResources(id.clone(), asked);
        let done = self.ask(&pod, &entry.queue, request).await?;
        done.map(drop).ok_or_else(|| not_found("container", id.as_str()))
    }

    /// Changes what a ready pod may use as a whole; what is none stays. It is kept in the pod's record
    /// and, where its cgroup is Berth's own, made true there; a cgroup of the kubelet's is its own to
    /// limit.
    ///
    /// # Errors
    /// NotFound, WrongState, or what the kernel says: then all is as before.
    pub async fn update_sandbox_resources(
        &self,
        id: &str,
        asked: PodResources,
    ) -> Result<(), Error> {
        let (pod, _) = self.shared.registry.sandbox(id)?;
        let node = self.clone();
        // A caller that leaves must not leave the record and the kernel apart.
        let work = tokio::spawn(async move { node.resize(&pod, asked).await });
        match work.await {
            Ok(done) => done,
            Err(why) => {
                let text = format!("a bug: the change of the pod's resources panicked: {why}");
                Err(Error::new(Kind::Broken, text))
            }
        }
    }

    async fn resize(&self, pod: &SandboxId, asked: PodResources) -> Result<(), Error> {
        let turn = self.shared.resizing.of(pod);
        let _turn = turn.lock().await;
        let id = pod.as_str();
        let before = self.sandbox(id)?.record.resources();
        let resources = PodResources {
            overhead: asked.overhead.or_else(|| before.overhead.clone()),
            containers: asked.containers.or_else(|| before.containers.clone()),
        };
        let record = Arc::clone(&self.sandbox(id)?.record);
        nri::update_sandbox(&self.shared, &record, &resources).await?;
        let record = self.set_sandbox_resources(id, resources).await?;
        let Err(why) = limit(&self.shared.cgroups, &record).await else {
            self.shared.plugins.updated(&self.shared, &record, None);
            return Ok(());
        };
        let record = self.set_sandbox_resources(id, before).await?;
        // Some limits may have been taken before the one that was not.
        let _ = limit(&self.shared.cgroups, &record).await;
        Err(why.into())
    }

    async fn set_sandbox_resources(
        &self,
        id: &str,
        resources: PodResources,
    ) -> Result<Arc<PodRecord>, Error> {
        let (full, entry) = self.shared.registry.sandbox(id)?;
        let gone = || not_found("sandbox", full.as_str());
        let request = Request::UpdateSandbox(Box::new(resources));
        self.ask(&full, &entry.queue, request).await?.ok_or_else(gone)?;
        Ok(Arc::clone(&self.sandbox(full.as_str())?.record))
    }

    /// Reopens a container's log after its rotation.
    ///
    /// # Errors
    /// NotFound, WrongState when it does not run, or what the shim says.
    pub async fn reopen_log(&self, id: &str) -> Result<(), Error> {
        let (context, id) = self.running(id)?;
        let reopen = async {
            if context.record.shim.held().is_some_and(|shim| shim.foreign) {
                return context.shared.carriers.reopen(&id).await;
            }
            let shim = connection(&context).await?;
            Ok(shim.reopen_log(id.as_str()).await?)
        };
        reopen.await.map_err(|why: Trouble| why.into())
    }

    /// Runs a command in a container; none waits without end.
    ///
    /// # Errors
    /// TimedOut when the command outlived `timeout`; it has been killed then.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, Error> {
        if command.is_empty() {
            return Err(Error::new(Kind::Invalid, "cmd: the command is empty: name a program"));
        }
        let (context, id) = self.running(id)?;
        exec::run(&context, &id, &command, timeout).await
    }

    /// Writes a checkpoint of a running container to an absolute path where nothing is yet. The
    /// container goes on. None: two minutes.
    ///
    /// # Errors
    /// NotFound, WrongState, Exists; Unimplemented when its handler cannot; what CRIU says.
    pub async fn checkpoint(
        &self,
        id: &str,
        location: std::path::PathBuf,
        timeout: Option<Duration>,
    ) -> Result<(), Error> {
        let (context, id) = self.running(id)?;
        // A caller that leaves must not leave the container frozen, or half of an archive.
        let work = async move { checkpoint::write(&context, &id, &location, timeout).await };
        match tokio::spawn(work).await {
            Ok(done) => done.map_err(Error::from),
            Err(why) => {
                Err(Error::new(Kind::Broken, format!("a bug: the checkpoint panicked: {why}")))
            }
        }
    }

    /// Reads what a checkpoint says, for a container of this pod.
    ///
    /// # Errors
    /// NotFound; Unimplemented when the pod's handler cannot; Invalid when it is no checkpoint.
    pub async fn checkpointed(
        &self,
        sandbox: &str,
        checkpoint: &Checkpoint,
    ) -> Result<Checkpointed, Error> {
        let pod = self.sandbox(sandbox)?;
        let (_, entry) = self.shared.registry.sandbox(sandbox)?;
        let (_cancel, canceled) = cancel();
        let context = Context::new(&self.shared, &pod.record, entry.queue, canceled);
        Ok(restore::peek(&context, checkpoint).await?)
    }

    /// Whether any pod may run on a kernel of its own.
    pub(crate) fn any_guests(&self) -> bool {
        self.shared.handlers.any_guests()
    }

    /// A handle for a use of a running container, outside its pod's queue.
    pub(crate) fn running(&self, id: &str) -> Result<(Context, ContainerId), Error> {
        let view = self.container(id)?;
        let state = match view.state {
            ContainerState::Running | ContainerState::Unknown => None,
            ContainerState::Created => Some("not started yet"),
            ContainerState::Exited => Some("not running any more"),
        };
        if let Some(state) = state {
            return Err(not_running(view.id(), state).into());
        }
        let (_, _, entry) = self.shared.registry.container(view.id().as_str())?;
        let Some(pod) = entry.view else {
            return Err(not_found("container", view.id().as_str()));
        };
        let (_, canceled) = cancel();
        let context = Context::new(&self.shared, &pod.record, entry.queue, canceled);
        Ok((context, view.id().clone()))
    }

    /// The OCI spec that a container was created with, as JSON; for verbose status.
    ///
    /// # Errors
    /// NotFound, or the bundle cannot be read.
    pub async fn runtime_spec(&self, id: &str) -> Result<Vec<u8>, Error> {
        let view = self.container(id)?;
        let path = Layout(&self.shared.settings).bundle(view.id().as_str()).join("config.json");
        std::fs::read(&path).map_err(|why| {
            Error::new(Kind::Unavailable, format!("cannot read {}: {why}", path.display()))
        })
    }

    /// The whole node for the operator.
    pub fn report(&self) -> NodeReport {
        let now = self.shared.now();
        let pods = self.shared.registry.reports(now);
        let handlers = self.handlers().report();
        let (leftovers, plugins) = (self.shared.leftovers.report(), self.shared.plugins.report());
        NodeReport { handlers, pods, leftovers, plugins }
    }

    /// Counts and times of every step so far, by its name; for metrics.
    pub fn steps(&self) -> std::collections::BTreeMap<String, Step> {
        self.shared.figures.all()
    }

    /// Asks a pod's task; none when the pod is gone.
    async fn ask(
        &self,
        pod: &SandboxId,
        queue: &mpsc::UnboundedSender<pod_task::Message>,
        request: Request,
    ) -> Result<Option<Reply>, Error> {
        match ask(queue, self.shared.token(), request).await {
            Some(answer) => Ok(Some(answer?)),
            // No answer is not "gone": that the registry alone knows.
            None if self.shared.registry.has(pod) => Err(Error::new(
                Kind::Broken,
                format!("a bug: the task of pod {pod} ended without an answer: restart berth"),
            )),
            None => Ok(None),
        }
    }
}

fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        // Fails only before the kernel's generator is seeded, which this waits for.
        filled +=
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
                .unwrap_or(0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture;
    use crate::pod_task::tests::{bed, pod};

    #[tokio::test]
    async fn a_pod_whose_task_is_lost_is_never_said_to_be_stopped_or_removed() {
        let dir = tempfile::tempdir().unwrap();
        let shared = bed(dir.path()).await;
        let record = pod();
        let (id, spec) = (record.id.to_string(), (*record.spec).clone());
        let (queue, _) = mpsc::unbounded_channel();
        shared.registry.insert(picture::view(&Machine::new(record), false, None), queue);
        let node = Node { shared };
        for failure in [
            node.stop_sandbox(&id).await.unwrap_err(),
            node.remove_sandbox(&id).await.unwrap_err(),
            node.run_sandbox(spec).await.unwrap_err(),
        ] {
            assert_eq!(failure.kind(), Kind::Broken);
            assert!(failure.to_string().contains("a bug: "), "{failure}");
        }
    }
}
