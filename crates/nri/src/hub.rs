//! The hub: one queue of all that plugins are asked and told, and one task that works it off.

mod work;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::api::{Container, ContainerAdjustment, Event, LinuxResources, PodSandbox};
use crate::others::Others;
use crate::plugin::{Incoming, Plugin};
use crate::{Error, Runtime, Settings, launch, listen, required};
use work::{Ask, Hub, Queued, Work};

/// Plugins that register at once; the others wait.
const REGISTERING: usize = 16;

/// How many plugins that are gone are remembered.
const REMEMBERED: usize = 16;

/// So much may wait to be told or asked, and so long. When it is more, the plugin that has taken longest
/// is let go.
const WAITING: usize = 4096;
const LATE: Duration = Duration::from_secs(30);

/// How long it takes until another connection is accepted when one could not be.
const PAUSE: Duration = Duration::from_millis(100);

/// A plugin for the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PluginReport {
    /// Its index and name.
    pub name: String,
    /// Why it is gone; none while it is connected.
    pub gone: Option<String>,
}

/// What plugins are told, and not asked.
#[derive(Debug)]
pub enum Telling {
    /// Of a pod.
    Pod(Event, Box<PodSandbox>),
    /// Of a container, and its pod.
    Container(Event, Box<(PodSandbox, Container)>),
}

/// The plugins of a node. Cheap to clone.
#[derive(Clone)]
pub struct Nri(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) settings: Settings,
    queue: mpsc::UnboundedSender<Queued>,
    /// The other end of it, until the hub is started.
    works: Mutex<Option<mpsc::UnboundedReceiver<Queued>>>,
    late: Duration,
    /// There is a plugin, or one is joining.
    active: AtomicBool,
    /// Pods and containers that have passed the plugins, or passed when there were none, and are not
    /// listed yet: one that joins meanwhile is told of them with the state.
    begun: Mutex<HashSet<String>>,
    /// How many those are, to be looked at without the lock.
    begun_count: AtomicUsize,
    /// Those that are connected, and the last that are not any more.
    pub(crate) reports: Mutex<Vec<PluginReport>>,
    /// Nobody waits any longer for what is queued: the daemon ends.
    hurry: watch::Sender<bool>,
}

impl Shared {
    fn begun(&self) -> MutexGuard<'_, HashSet<String>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an entry; false: the hub has ended.
    fn queue(&self, work: Work) -> bool {
        self.queue.send(Queued { since: Instant::now(), work }).is_ok()
    }

    pub(crate) fn begin(&self, id: &str) {
        let mut begun = self.begun();
        begun.insert(id.to_owned());
        self.begun_count.store(begun.len(), Ordering::Release);
    }

    pub(crate) fn settle(&self, id: &str) -> bool {
        let mut begun = self.begun();
        let had = begun.remove(id);
        self.begun_count.store(begun.len(), Ordering::Release);
        had
    }

    /// From now on everything is queued; gives what has begun and is not listed.
    pub(crate) fn activate(&self) -> HashSet<String> {
        let begun = self.begun();
        self.active.store(true, Ordering::Release);
        begun.clone()
    }

    /// Nobody is left to be told.
    pub(crate) fn rest(&self) {
        let _begun = self.begun();
        self.active.store(false, Ordering::Release);
    }

    pub(crate) fn report(&self, name: String, gone: Option<String>) {
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        if gone.is_some()
            && let Some(at) = reports.iter().position(|one| one.name == name && one.gone.is_none())
        {
            reports.remove(at);
        }
        // One that has come back is not gone.
        reports.retain(|one| one.name != name || one.gone.is_none());
        reports.push(PluginReport { name, gone });
        let gone = reports.iter().filter(|one| one.gone.is_some()).count();
        if gone > REMEMBERED
            && let Some(oldest) = reports.iter().position(|one| one.gone.is_some())
        {
            reports.remove(oldest);
        }
    }
}

impl Nri {
    /// Plugins as these settings have them; none before [`Nri::start`].
    pub fn new(settings: Settings) -> Self {
        let (queue, works) = mpsc::unbounded_channel();
        let late = LATE.max(settings.request * 2);
        Self(Arc::new(Shared {
            settings,
            queue,
            works: Mutex::new(Some(works)),
            late,
            active: AtomicBool::new(false),
            begun: Mutex::default(),
            begun_count: AtomicUsize::new(0),
            reports: Mutex::default(),
            hurry: watch::Sender::new(false),
        }))
    }

    /// Starts the pre-installed plugins, waits until they are there or have failed, and listens for
    /// others. A plugin that fails is told, and is no error: who needs it requires it.
    ///
    /// # Errors
    /// The socket cannot be made; everything else works.
    pub async fn start(&self, runtime: Arc<dyn Runtime>) -> Result<(), Error> {
        let works = self.0.works.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(works) = works else { return Ok(()) };
        let hub = Hub::new(Arc::clone(&self.0), Arc::clone(&runtime));
        tokio::spawn(hub.run(works));
        let mut joining = tokio::task::JoinSet::new();
        for installed in launch::find(&self.0.settings.plugins) {
            let name = installed.full_name();
            match installed.start(&self.0.settings) {
                Ok(incoming) => {
                    let (shared, runtime) = (Arc::clone(&self.0), Arc::clone(&runtime));
                    joining.spawn(async move { join(&shared, incoming, &runtime, name).await });
                }
                Err(why) => {
                    tracing::error!(error = %why, "a pre-installed NRI plugin is not there");
                    self.0.report(name, Some(why.to_string()));
                }
            }
        }
        while joining.join_next().await.is_some() {}
        if let Some(path) = &self.0.settings.socket {
            let listener = listen::listen(path).await?;
            tracing::info!(socket = %path.display(), "NRI plugins may register");
            tokio::spawn(accept(Arc::clone(&self.0), listener, runtime));
        }
        Ok(())
    }

    /// Is there anybody to be asked or told?
    pub fn active(&self) -> bool {
        self.0.active.load(Ordering::Acquire)
    }

    /// Is there anybody to be told, or anything under way that one who comes would have to be told of?
    pub fn watching(&self) -> bool {
        self.active() || self.0.begun_count.load(Ordering::Acquire) > 0
    }

    /// A creation comes to where plugins are asked: are there any? If not, it is noted that it has
    /// passed.
    pub fn pass(&self, id: &str) -> bool {
        let mut begun = self.0.begun();
        if self.active() {
            return true;
        }
        begun.insert(id.to_owned());
        self.0.begun_count.store(begun.len(), Ordering::Release);
        false
    }

    /// A creation is listed, or gone. Had it passed the plugins?
    pub fn settle(&self, id: &str) -> bool {
        self.0.settle(id)
    }

    /// Has this creation, which is not listed, passed the plugins?
    pub fn passed(&self, id: &str) -> bool {
        self.0.begun().contains(id)
    }

    async fn ask<T>(
        &self,
        ask: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Ask,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        if !self.0.queue(Work::Ask(ask(reply))) {
            return Err(Error::Ending);
        }
        match answer.await {
            Ok(answer) => answer,
            Err(_) if self.0.queue.is_closed() || *self.0.hurry.borrow() => Err(Error::Ending),
            Err(_) => Err(Error::Panicked),
        }
    }

    /// A sandbox is about to be ready.
    ///
    /// # Errors
    /// A plugin refuses it.
    pub async fn run_pod_sandbox(&self, pod: PodSandbox) -> Result<(), Error> {
        self.ask(|reply| Ask::RunPod(Box::new(pod), reply)).await
    }

    /// A sandbox is about to be stopped; what plugins say to that changes nothing.
    pub async fn stop_pod_sandbox(&self, pod: PodSandbox) {
        let told = self.ask(|reply| Ask::StopPod(Box::new(pod), reply)).await;
        if let Err(why) = told {
            tracing::warn!(error = %why, "a sandbox stops all the same");
        }
    }

    /// A pod's resources are about to be changed.
    ///
    /// # Errors
    /// A plugin refuses it.
    pub async fn update_pod_sandbox(
        &self,
        pod: PodSandbox,
        overhead: Option<LinuxResources>,
        resources: Option<LinuxResources>,
    ) -> Result<(), Error> {
        self.ask(|reply| Ask::UpdatePod(Box::new((pod, overhead, resources)), reply)).await
    }

    /// Without any plugin: may this container be created all the same?
    ///
    /// # Errors
    /// It needs one that is not there.
    pub fn check_required(&self, pod: &PodSandbox, container: &str) -> Result<(), Error> {
        required::check(&self.0.settings, &pod.annotations, container, &[])
    }

    /// Could a container of a pod with these annotations need a plugin?
    pub fn may_require(&self, annotations: &std::collections::BTreeMap<String, String>) -> bool {
        required::may_need(&self.0.settings, annotations)
    }

    /// A container is about to be created: what is to be changed of it, and what plugins want of
    /// others, which has begun.
    ///
    /// # Errors
    /// A plugin refuses it, two want the same, or one that is required is missing.
    pub async fn create_container(
        &self,
        pod: PodSandbox,
        container: Container,
    ) -> Result<(ContainerAdjustment, Others), Error> {
        self.ask(|reply| Ask::Create(Box::new((pod, container)), reply)).await
    }

    /// A container that has been made is about to be started.
    ///
    /// # Errors
    /// A plugin refuses it.
    pub async fn start_container(
        &self,
        pod: PodSandbox,
        container: Container,
    ) -> Result<(), Error> {
        self.ask(|reply| Ask::Start(Box::new((pod, container)), reply)).await
    }

    /// A container's limits are about to be changed to these: what they are to be, and what plugins
    /// want of others, which has begun.
    ///
    /// # Errors
    /// A plugin refuses it, or two want the same.
    pub async fn update_container(
        &self,
        pod: PodSandbox,
        container: Container,
        resources: LinuxResources,
    ) -> Result<(LinuxResources, Others), Error> {
        self.ask(|reply| Ask::Update(Box::new((pod, container, resources)), reply)).await
    }

    /// Something has happened. What plugins are told is made when it is their turn.
    pub fn tell(&self, telling: impl FnOnce() -> Telling + Send + 'static) {
        // A hub that has ended has nobody to tell.
        self.0.queue(Work::Tell(Box::new(telling)));
    }

    /// Tells all plugins that the daemon ends, and ends the programs that it has started. What is
    /// queued has the time of one request; then they are told without it.
    pub async fn shut_down(&self) {
        self.shut_down_within(self.0.settings.request).await;
    }

    async fn shut_down_within(&self, limit: Duration) {
        let (done, mut ended) = oneshot::channel();
        if !self.active() || !self.0.queue(Work::End(done)) {
            return;
        }
        if tokio::time::timeout(limit, &mut ended).await.is_err() {
            self.0.hurry.send_replace(true);
            let _ = ended.await;
        }
    }

    /// The plugins that are there, and those that are there no more.
    pub fn report(&self) -> Vec<PluginReport> {
        self.0.reports.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Lets a plugin in, and waits until it has been told of everything, or is gone.
async fn join(shared: &Arc<Shared>, incoming: Incoming, runtime: &Arc<dyn Runtime>, name: String) {
    match Plugin::welcome(incoming, &shared.settings, runtime).await {
        Ok(plugin) => {
            let (joined, done) = oneshot::channel();
            if shared.queue(Work::Join(Box::new(plugin), joined)) {
                let _ = done.await;
            }
        }
        Err(why) => {
            tracing::error!(error = %why, "an NRI plugin is not let in");
            let name = match &why {
                Error::Register { plugin, .. } => plugin.clone(),
                _ => name,
            };
            shared.report(name, Some(why.to_string()));
        }
    }
}

async fn accept(shared: Arc<Shared>, listener: UnixListener, runtime: Arc<dyn Runtime>) {
    let turns = Arc::new(Semaphore::new(REGISTERING));
    loop {
        // Never closed.
        let Ok(turn) = Arc::clone(&turns).acquire_owned().await else { return };
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(why) => {
                tracing::warn!(error = %why, "cannot let an NRI plugin connect");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (shared, runtime) = (Arc::clone(&shared), Arc::clone(&runtime));
        tokio::spawn(async move {
            let incoming = Incoming { socket, named: None, config: String::new(), program: None };
            join(&shared, incoming, &runtime, String::new()).await;
            drop(turn);
        });
    }
}

#[cfg(test)]
mod tests;
