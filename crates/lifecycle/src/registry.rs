//! Every pod of the node: how to reach its task, and its last picture. Nothing here waits.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use berth_pod::machine::{Nanos, Reply, Request, Token};
use berth_pod::record::Failure;
use berth_pod::spec::PodName;
use berth_pod::{ContainerId, Kind, SandboxId};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::Error;
use crate::picture::{self, Work};
use crate::pod_task::{Asked, Message};
use crate::view::{ContainerView, PodReport, PodView};

/// One pod: its task's queue, its picture, and what is being done about it.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) queue: mpsc::UnboundedSender<Message>,
    pub(crate) view: Option<Arc<PodView>>,
    work: Vec<Work>,
}

#[derive(Default)]
struct Maps {
    pods: BTreeMap<String, Entry>,
    names: HashMap<PodName, SandboxId>,
    /// Container to sandbox.
    containers: BTreeMap<String, SandboxId>,
}

/// The pods of the node.
#[derive(Default)]
pub(crate) struct Registry {
    maps: RwLock<Maps>,
    changed: Notify,
}

impl Registry {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, Maps> {
        self.maps.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Maps> {
        self.maps.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The task of the pod with this name, or the one that `make` makes and registers.
    pub(crate) fn named_or(
        &self,
        name: &PodName,
        make: impl FnOnce() -> (SandboxId, mpsc::UnboundedSender<Message>),
    ) -> (SandboxId, mpsc::UnboundedSender<Message>) {
        let mut maps = self.write();
        if let Some(id) = maps.names.get(name).cloned()
            && let Some(entry) = maps.pods.get(id.as_str())
        {
            return (id, entry.queue.clone());
        }
        let (id, queue) = make();
        maps.names.insert(name.clone(), id.clone());
        let entry = Entry { queue: queue.clone(), view: None, work: Vec::new() };
        maps.pods.insert(id.to_string(), entry);
        (id, queue)
    }

    /// The task of the pod with this name.
    pub(crate) fn named(
        &self,
        name: &PodName,
    ) -> Option<(SandboxId, mpsc::UnboundedSender<Message>)> {
        let maps = self.read();
        let id = maps.names.get(name)?;
        Some((id.clone(), maps.pods.get(id.as_str())?.queue.clone()))
    }

    /// Registers a restored pod, under its name unless that has passed to another. It is in every
    /// list from here on.
    pub(crate) fn insert(&self, view: PodView, queue: mpsc::UnboundedSender<Message>) {
        let mut maps = self.write();
        let id = view.id().clone();
        maps.names.entry(view.spec().name.clone()).or_insert_with(|| id.clone());
        maps.pods.insert(id.to_string(), Entry { queue, view: None, work: Vec::new() });
        drop(maps);
        self.publish(Arc::new(view), Vec::new());
    }

    /// Shows a pod as it stands now.
    pub(crate) fn publish(&self, view: Arc<PodView>, work: Vec<Work>) {
        let mut maps = self.write();
        let Maps { pods, containers, .. } = &mut *maps;
        let Some(entry) = pods.get_mut(view.id().as_str()) else { return };
        let before = entry.view.as_ref().map(|view| &view.record.containers);
        let now = &view.record.containers;
        for id in now.keys().filter(|id| before.is_none_or(|b| !b.contains_key(*id))) {
            containers.insert(id.to_string(), view.id().clone());
        }
        for id in before.into_iter().flatten().map(|(id, _)| id) {
            if !now.contains_key(id) {
                containers.remove(id.as_str());
            }
        }
        entry.view = Some(view);
        entry.work = work;
        drop(maps);
        self.changed.notify_waiters();
    }

    /// Forgets a pod.
    pub(crate) fn remove(&self, id: &SandboxId, name: &PodName) {
        let mut maps = self.write();
        let gone = maps.pods.remove(id.as_str()).and_then(|entry| entry.view);
        if maps.names.get(name) == Some(id) {
            maps.names.remove(name);
        }
        for container in gone.iter().flat_map(|view| view.record.containers.keys()) {
            maps.containers.remove(container.as_str());
        }
        drop(maps);
        self.changed.notify_waiters();
    }

    /// Is this pod here: registered, and not forgotten yet.
    pub(crate) fn has(&self, id: &SandboxId) -> bool {
        self.read().pods.contains_key(id.as_str())
    }

    /// Resolves when anything has changed since the call.
    pub(crate) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    /// Every picture, listed or not.
    pub(crate) fn views(&self) -> Vec<Arc<PodView>> {
        self.read().pods.values().filter_map(|e| e.view.clone()).collect()
    }

    /// Every pod for the operator.
    pub(crate) fn reports(&self, now: Nanos) -> Vec<PodReport> {
        let report = |e: &Entry| e.view.as_ref().map(|view| picture::report(view, &e.work, now));
        self.read().pods.values().filter_map(report).collect()
    }

    /// What the pods were begun with; none while one of them is so new that it has no picture.
    pub(crate) fn settings(&self) -> Option<HashSet<String>> {
        let of = |entry: &Entry| Some(entry.view.as_ref()?.record.settings.clone());
        self.read().pods.values().map(of).collect()
    }

    /// The one sandbox whose id starts with this.
    pub(crate) fn sandbox(&self, id: &str) -> Result<(SandboxId, Entry), Error> {
        let maps = self.read();
        let (key, entry) = one(&maps.pods, id, "sandbox")?;
        let id = SandboxId::parse(key).map_err(|e| Error::new(Kind::Broken, e.to_string()))?;
        Ok((id, entry.clone()))
    }

    /// The one container whose id starts with this, and its pod's task.
    pub(crate) fn container(&self, id: &str) -> Result<(ContainerId, SandboxId, Entry), Error> {
        let maps = self.read();
        let (key, sandbox) = one(&maps.containers, id, "container")?;
        let id = ContainerId::parse(key).map_err(|e| Error::new(Kind::Broken, e.to_string()))?;
        let entry = maps.pods.get(sandbox.as_str()).ok_or_else(|| not_found("container", key))?;
        Ok((id, sandbox.clone(), entry.clone()))
    }

    /// The listed picture of a container.
    pub(crate) fn container_view(&self, id: &str) -> Result<Arc<ContainerView>, Error> {
        let (id, _, entry) = self.container(id)?;
        let view = entry.view.filter(|v| v.listed);
        let found = view.and_then(|v| v.containers.iter().find(|c| *c.id() == id).cloned());
        found.ok_or_else(|| not_found("container", id.as_str()))
    }
}

pub(crate) fn not_found(what: &str, id: &str) -> Error {
    Error::new(
        Kind::NotFound,
        format!("{what} {id:?} is not there: it has been removed or never existed"),
    )
}

/// The one entry whose key starts with `id`.
fn one<'m, T>(
    map: &'m BTreeMap<String, T>,
    id: &str,
    what: &str,
) -> Result<(&'m str, &'m T), Error> {
    if id.is_empty() {
        return Err(Error::new(Kind::Invalid, format!("the {what} id is empty: name one")));
    }
    let mut found = map.range(id.to_owned()..).take_while(|(key, _)| key.starts_with(id));
    match (found.next(), found.next()) {
        (Some((key, value)), None) => Ok((key, value)),
        (Some(_), Some(_)) => {
            let text = format!("{what} id {id:?} stands for several: give more digits");
            Err(Error::new(Kind::Invalid, text))
        }
        (None, _) => Err(not_found(what, id)),
    }
}

/// Asks a pod's task and waits. A caller that goes away while it waits is reported to the task.
pub(crate) async fn ask(
    queue: &mpsc::UnboundedSender<Message>,
    token: Token,
    request: Request,
) -> Option<Result<Reply, Failure>> {
    struct Leaving<'q>(&'q mpsc::UnboundedSender<Message>, Token, bool);
    impl Drop for Leaving<'_> {
        fn drop(&mut self) {
            if self.2 {
                let _ = self.0.send(Message::CallerGone(self.1));
            }
        }
    }
    let (reply, answer) = oneshot::channel();
    queue.send(Message::Request(Box::new(Asked { token, request, reply }))).ok()?;
    let mut leaving = Leaving(queue, token, true);
    let answer = answer.await;
    leaving.2 = false;
    answer.ok()
}
