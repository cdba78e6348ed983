//! What the hub does with each entry of its queue.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio::sync::{mpsc, oneshot};

use super::{Shared, Telling, WAITING};
use crate::api::{
    Container, ContainerAdjustment, CreateContainerRequest, CreateContainerResponse, Empty, Event,
    LinuxResources, PluginInstance, PodSandbox, PostCreateContainerRequest,
    PostStartContainerRequest, PostUpdateContainerRequest, PostUpdatePodSandboxRequest,
    RemoveContainerRequest, RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest,
    StopContainerRequest, StopContainerResponse, StopPodSandboxRequest, UpdateContainerRequest,
    UpdateContainerResponse, UpdatePodSandboxRequest, ValidateContainerAdjustmentRequest,
    ValidateContainerAdjustmentResponse,
};
use crate::error::After;
use crate::merge::{Created, Creation};
use crate::others::Others;
use crate::plugin::{Plugin, survived};
use crate::resources::lay;
use crate::sync::synchronize;
use crate::updates::Updates;
use crate::{Error, Runtime, required};

type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// What a caller waits for.
pub(super) enum Ask {
    RunPod(Box<PodSandbox>, Reply<()>),
    StopPod(Box<PodSandbox>, Reply<()>),
    UpdatePod(Box<(PodSandbox, Option<LinuxResources>, Option<LinuxResources>)>, Reply<()>),
    Create(Box<(PodSandbox, Container)>, Reply<(ContainerAdjustment, Others)>),
    Start(Box<(PodSandbox, Container)>, Reply<()>),
    Update(Box<(PodSandbox, Container, LinuxResources)>, Reply<(LinuxResources, Others)>),
}

/// An entry of the queue.
pub(super) enum Work {
    Ask(Ask),
    Tell(Box<dyn FnOnce() -> Telling + Send>),
    /// A plugin comes; told when it is in, or gone.
    Join(Box<Plugin>, oneshot::Sender<()>),
    End(oneshot::Sender<()>),
}

/// It has waited since then.
pub(super) struct Queued {
    pub(super) since: Instant,
    pub(super) work: Work,
}

/// The plugins in their order, and the task that alone calls them.
pub(super) struct Hub {
    shared: Arc<Shared>,
    runtime: Arc<dyn Runtime>,
    plugins: Vec<Plugin>,
}

impl Hub {
    pub(super) fn new(shared: Arc<Shared>, runtime: Arc<dyn Runtime>) -> Self {
        Self { shared, runtime, plugins: Vec::new() }
    }

    pub(super) async fn run(mut self, mut works: mpsc::UnboundedReceiver<Queued>) {
        // What has gathered when one is let go is worked off before another one is to blame.
        let (mut most, mut since) = (WAITING, Instant::now());
        loop {
            if works.is_empty() {
                self.plugins.iter_mut().for_each(Plugin::is_up_to_date);
                most = WAITING;
            }
            let queued = tokio::select! {
                queued = works.recv() => queued,
                () = any_closed(&self.plugins) => {
                    self.drop_closed();
                    continue;
                }
            };
            let Some(Queued { since: begun, work }) = queued else { return };
            let (waiting, late) = (works.len() + 1, begun.elapsed());
            if waiting > most || late > self.shared.late && begun > since {
                self.drop_slowest(waiting, late);
                (most, since) = (waiting + WAITING, Instant::now());
            }
            if let Work::End(done) = work {
                Box::pin(self.end()).await;
                let _ = done.send(());
                return;
            }
            let mut hurry = self.shared.hurry.subscribe();
            let done = AssertUnwindSafe(Box::pin(self.work(work))).catch_unwind();
            let panicked = tokio::select! {
                biased;
                _ = hurry.wait_for(|hurry| *hurry) => false,
                done = done => done.is_err(),
            };
            if panicked {
                tracing::error!("a bug: a call of NRI plugins panicked; they are called on");
            }
            self.drop_closed();
        }
    }

    async fn work(&mut self, work: Work) {
        match work {
            Work::Ask(ask) => self.answer(ask).await,
            Work::Tell(telling) => self.tell(telling()).await,
            Work::Join(plugin, done) => {
                self.join(*plugin).await;
                let _ = done.send(());
            }
            // The loop's.
            Work::End(_) => {}
        }
    }

    /// So much waits for them, or so long: lets go of the one that the most time went to.
    fn drop_slowest(&mut self, waiting: usize, late: Duration) {
        let Some(slowest) = self.plugins.iter().max_by_key(|plugin| plugin.spent()) else { return };
        let (plugin, spent) = (slowest.full_name(), slowest.spent());
        tracing::error!(
            plugin,
            waiting,
            ?late,
            ?spent,
            "an NRI plugin is too slow for what happens"
        );
        slowest.peer.close(&format!(
            "it is too slow: {waiting} calls wait, the first one {late:?}, and it has taken {spent:?} \
             over those before them"
        ));
        self.drop_closed();
    }

    /// Lets go of plugins whose connections are lost.
    fn drop_closed(&mut self) {
        let shared = &self.shared;
        self.plugins.retain(|plugin| {
            let Some(why) = plugin.peer.lost() else { return true };
            tracing::warn!(plugin = plugin.full_name(), reason = %why, "an NRI plugin is gone");
            shared.report(plugin.full_name(), Some(why.to_string()));
            false
        });
        if self.plugins.is_empty() {
            self.shared.rest();
        }
    }

    async fn answer(&mut self, ask: Ask) {
        // Who does not wait any more wants no answer.
        match ask {
            Ask::RunPod(pod, reply) => {
                if !self.begins(&pod.id, &reply) {
                    return;
                }
                let _ = reply.send(self.of_pod(Event::RunPodSandbox, &pod).await);
            }
            Ask::StopPod(pod, reply) => {
                let _ = reply.send(self.of_pod(Event::StopPodSandbox, &pod).await);
            }
            Ask::UpdatePod(asked, reply) => {
                let _ = reply.send(self.update_pod(*asked).await);
            }
            Ask::Create(of, reply) => {
                if !self.begins(&of.1.id, &reply) {
                    return;
                }
                let created = self.create(of.0, of.1).await;
                if reply.is_closed() {
                    return;
                }
                let created = match created {
                    Ok(created) => Ok((created.adjust, self.others(created.update, created.evict))),
                    Err(why) => Err(why),
                };
                let _ = reply.send(created);
            }
            Ask::Start(of, reply) => {
                let _ = reply.send(self.of_container(Event::StartContainer, &of.0, &of.1).await);
            }
            Ask::Update(of, reply) => {
                let (pod, container, resources) = *of;
                let updated = self.update(pod, container, resources).await;
                if reply.is_closed() {
                    return;
                }
                let updated = match updated {
                    Ok((to, more)) => Ok((to, self.others(more.update, more.evict))),
                    Err(why) => Err(why),
                };
                let _ = reply.send(updated);
            }
        }
    }

    /// A creation comes to the plugins, unless it was given up while it was queued: nobody would tell
    /// them of its end.
    fn begins<T>(&self, id: &str, reply: &Reply<T>) -> bool {
        self.shared.begin(id);
        let wanted = !reply.is_closed();
        if !wanted {
            self.shared.settle(id);
        }
        wanted
    }

    async fn tell(&mut self, telling: Telling) {
        let told = match telling {
            Telling::Pod(event, pod) => self.of_pod(event, &pod).await,
            Telling::Container(Event::StopContainer, of) => self.stop(of.0, of.1).await,
            Telling::Container(event, of) => self.of_container(event, &of.0, &of.1).await,
        };
        if let Err(why) = told {
            tracing::warn!(error = %why, "an NRI plugin does not like what it is told");
        }
    }

    /// Tells each of something about a pod, until one refuses.
    async fn of_pod(&self, event: Event, pod: &PodSandbox) -> Result<(), Error> {
        let (some, of) = (Some(pod.clone()), (pod, None));
        let settings = &self.shared.settings;
        for plugin in self.plugins.iter().filter(|plugin| plugin.wants(event)) {
            let pod = some.clone();
            let (call, told) = match event {
                Event::RunPodSandbox => {
                    let call = ("RunPodSandbox", &RunPodSandboxRequest { pod });
                    (call.0, plugin.tell(event, call, of, settings).await)
                }
                Event::StopPodSandbox => {
                    let call = ("StopPodSandbox", &StopPodSandboxRequest { pod });
                    (call.0, plugin.tell(event, call, of, settings).await)
                }
                Event::PostUpdatePodSandbox => {
                    let call = ("PostUpdatePodSandbox", &PostUpdatePodSandboxRequest { pod });
                    (call.0, plugin.tell(event, call, of, settings).await)
                }
                _ => {
                    let call = ("RemovePodSandbox", &RemovePodSandboxRequest { pod });
                    (call.0, plugin.tell(event, call, of, settings).await)
                }
            };
            survived(plugin, call, told)?;
        }
        Ok(())
    }

    /// The same about a container.
    async fn of_container(
        &self,
        event: Event,
        pod: &PodSandbox,
        container: &Container,
    ) -> Result<(), Error> {
        let of = (pod, Some(container));
        let settings = &self.shared.settings;
        for plugin in self.plugins.iter().filter(|plugin| plugin.wants(event)) {
            let (pod, container) = (Some(pod.clone()), Some(container.clone()));
            let (call, told) = match event {
                Event::PostCreateContainer => {
                    let request = PostCreateContainerRequest { pod, container };
                    let call = ("PostCreateContainer", &request);
                    (call.0, plugin.tell(event, call, of, settings).await)
                }
                Event::StartContainer => {
                    let call = ("StartContainer", &StartContainerRequest { pod, container });
                    (call.0, plugin.tell(event, call, of, settings).await)
                }
                Event::PostStartContainer => {
                    let request = PostStartContainerRequest { pod, container };
                    let call = ("PostStartContainer", &request);
                    (call.0, plugin.tell(event, call, of, settings).await)
                }
                Event::PostUpdateContainer => {
                    let request = PostUpdateContainerRequest { pod, container };
                    let call = ("PostUpdateContainer", &request);
                    (call.0, plugin.tell(event, call, of, settings).await)
                }
                _ => {
                    let call = ("RemoveContainer", &RemoveContainerRequest { pod, container });
                    (call.0, plugin.tell(event, call, of, settings).await)
                }
            };
            survived(plugin, call, told)?;
        }
        Ok(())
    }

    async fn update_pod(
        &self,
        (pod, overhead, resources): (PodSandbox, Option<LinuxResources>, Option<LinuxResources>),
    ) -> Result<(), Error> {
        const CALL: &str = "UpdatePodSandbox";
        let request = UpdatePodSandboxRequest {
            pod: Some(pod),
            overhead_linux_resources: overhead,
            linux_resources: resources,
        };
        for plugin in self.plugins.iter().filter(|plugin| plugin.wants(Event::UpdatePodSandbox)) {
            let done = plugin.call::<Empty>(CALL, &request, &self.shared.settings).await;
            survived(plugin, CALL, done.map(drop))?;
        }
        Ok(())
    }

    async fn create(&self, pod: PodSandbox, container: Container) -> Result<Created, Error> {
        const CALL: &str = "CreateContainer";
        let name = container.name.clone();
        self.required(&pod, &name)?;
        let validated = self.plugins.iter().any(|p| p.wants(Event::ValidateContainerAdjustment));
        let before = validated.then(|| container.clone());
        let mut creation = Creation::new(container);
        for plugin in self.plugins.iter().filter(|plugin| plugin.wants(Event::CreateContainer)) {
            let container = Some(creation.container.clone());
            let request = CreateContainerRequest { pod: Some(pod.clone()), container };
            let answer = plugin.call(CALL, &request, &self.shared.settings).await;
            if let Some(answer) = survived::<Option<CreateContainerResponse>>(plugin, CALL, answer)?
            {
                creation.take(answer, &plugin.full_name())?;
            }
        }
        // One may have been lost with its answer.
        self.required(&pod, &name)?;
        if let Some(before) = before {
            self.validate(pod, before, &creation).await?;
        }
        Ok(creation.into_created())
    }

    fn required(&self, pod: &PodSandbox, container: &str) -> Result<(), Error> {
        let there = self.plugins.iter().filter(|plugin| plugin.peer.lost().is_none());
        let there: Vec<_> =
            there.map(|plugin| (plugin.index.as_str(), plugin.name.as_str())).collect();
        required::check(&self.shared.settings, &pod.annotations, container, &there)
    }

    async fn validate(
        &self,
        pod: PodSandbox,
        container: Container,
        creation: &Creation,
    ) -> Result<(), Error> {
        const CALL: &str = "ValidateContainerAdjustment";
        let (adjust, update, owners) = creation.so_far();
        let there = self.plugins.iter().filter(|plugin| plugin.peer.lost().is_none());
        let plugins = there.map(|plugin| PluginInstance {
            name: plugin.name.clone(),
            index: plugin.index.clone(),
        });
        let request = ValidateContainerAdjustmentRequest {
            pod: Some(pod),
            container: Some(container),
            adjust: Some(adjust),
            update,
            owners: Some(owners),
            plugins: plugins.collect(),
        };
        let wants = |plugin: &&Plugin| plugin.wants(Event::ValidateContainerAdjustment);
        for plugin in self.plugins.iter().filter(wants) {
            let answer: Result<Option<ValidateContainerAdjustmentResponse>, After> =
                plugin.call(CALL, &request, &self.shared.settings).await;
            let refused = |message: String| {
                Err(Error::Refused { plugin: plugin.full_name(), call: CALL, message })
            };
            match answer {
                Ok(Some(answer)) if answer.reject => return refused(answer.reason),
                Ok(_) => {}
                Err(After::Refused(why)) => return refused(why),
                // What was to be looked at has not been looked at.
                Err(After::Lost(why)) => {
                    plugin.peer.close(&format!("{CALL}: {why}"));
                    return refused(why);
                }
            }
        }
        Ok(())
    }

    async fn update(
        &self,
        pod: PodSandbox,
        container: Container,
        mut resources: LinuxResources,
    ) -> Result<(LinuxResources, Created), Error> {
        const CALL: &str = "UpdateContainer";
        let id = container.id.clone();
        let (mut updates, mut evict) = (Updates::default(), Vec::new());
        for plugin in self.plugins.iter().filter(|plugin| plugin.wants(Event::UpdateContainer)) {
            let request = UpdateContainerRequest {
                pod: Some(pod.clone()),
                container: Some(container.clone()),
                linux_resources: Some(resources.clone()),
            };
            let answer = plugin.call(CALL, &request, &self.shared.settings).await;
            let answer = survived::<Option<UpdateContainerResponse>>(plugin, CALL, answer)?;
            let Some(answer) = answer else { continue };
            updates.add(answer.update, &plugin.full_name())?;
            if let Some(own) = updates.of(&id) {
                lay(&mut resources, own);
            }
            evict.extend(answer.evict);
        }
        let mut update = updates.into_all();
        update.retain(|one| one.container_id != id);
        Ok((resources, Created { update, evict, ..Created::default() }))
    }

    async fn stop(&self, pod: PodSandbox, container: Container) -> Result<(), Error> {
        const CALL: &str = "StopContainer";
        let mut updates = Updates::default();
        let mut refused = Ok(());
        let request = StopContainerRequest { pod: Some(pod), container: Some(container) };
        for plugin in self.plugins.iter().filter(|plugin| plugin.wants(Event::StopContainer)) {
            let answer = plugin.call(CALL, &request, &self.shared.settings).await;
            let taken = survived::<Option<StopContainerResponse>>(plugin, CALL, answer).and_then(
                |answer| updates.add(answer.unwrap_or_default().update, &plugin.full_name()),
            );
            // It has stopped whatever one of them says: the others are told as well.
            refused = refused.and(taken);
        }
        // Nobody waits for it.
        drop(self.others(updates.into_all(), Vec::new()));
        refused
    }

    /// Begins what plugins want of other containers; the queue does not wait for it.
    fn others(
        &self,
        updates: Vec<crate::api::ContainerUpdate>,
        evictions: Vec<crate::api::ContainerEviction>,
    ) -> Others {
        Others::begin(&self.runtime, updates, evictions)
    }

    async fn join(&mut self, mut plugin: Plugin) {
        self.drop_closed();
        while self.plugins.iter().any(|other| other.full_name() == plugin.full_name()) {
            plugin.number += 1;
        }
        let name = plugin.full_name();
        let begun = self.shared.activate();
        let runtime = Arc::clone(&self.runtime);
        let state = tokio::task::spawn_blocking(move || runtime.state(&begun)).await;
        let Ok(state) = state else {
            tracing::error!(plugin = name, "a bug: the state for an NRI plugin panicked");
            self.shared.report(name, Some("the daemon could not say what there is".to_owned()));
            return;
        };
        let (pods, containers) = (state.pods.len(), state.containers.len());
        match synchronize(&plugin, state, &self.shared.settings).await {
            Ok(updates) => {
                tracing::info!(plugin = name, pods, containers, "an NRI plugin has joined");
                self.shared.report(name, None);
                self.plugins.push(plugin);
                self.plugins.sort_by(|a, b| (&a.index, &a.name).cmp(&(&b.index, &b.name)));
                drop(self.others(updates, Vec::new()));
            }
            Err(After::Refused(why) | After::Lost(why)) => {
                let why = format!("Synchronize: {why}");
                tracing::error!(plugin = name, error = why, "an NRI plugin is not let in");
                self.shared.report(name, Some(why));
            }
        }
    }

    async fn end(&mut self) {
        let settings = &self.shared.settings;
        let told = self.plugins.iter().map(|plugin| async move {
            // It ends with this, whatever it says.
            let _ = plugin.call::<Empty>("Shutdown", &Empty {}, settings).await;
        });
        futures_util::future::join_all(told).await;
        for mut plugin in self.plugins.drain(..) {
            if let Some(mut program) = plugin.program.take() {
                program.0.abort();
                let _ = (&mut program.0).await;
            }
        }
        self.shared.rest();
    }
}

/// Resolves when one of them is lost.
async fn any_closed(plugins: &[Plugin]) {
    if plugins.is_empty() {
        return std::future::pending().await;
    }
    let closed = plugins.iter().map(|plugin| Box::pin(plugin.peer.closed()));
    futures_util::future::select_all(closed).await;
}
