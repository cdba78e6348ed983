//! What plugins are told when it has been saved.

use std::sync::Arc;

use berth_nri::Telling;
use berth_nri::api::Event;
use berth_pod::record::{ContainerRecord, PodRecord};

use super::{Plugins, config, describe};
use crate::events::{Change, between};
use crate::layout::Layout;
use crate::shared::Shared;

impl Plugins {
    /// A container's limits, or a pod's resources, have been changed.
    pub(crate) fn updated(
        &self,
        shared: &Arc<Shared>,
        pod: &Arc<PodRecord>,
        c: Option<&Arc<ContainerRecord>>,
    ) {
        match c {
            _ if !self.nri.active() => {}
            Some(c) => self.tell_of(shared, Event::PostUpdateContainer, pod, c),
            None => {
                let pod = Arc::clone(pod);
                let event = Event::PostUpdatePodSandbox;
                self.nri.tell(move || Telling::Pod(event, Box::new(describe::pod(&pod))));
            }
        }
    }

    /// Tells how a pod's record has changed; `now` is none once the pod is gone. Nobody is waited for.
    pub(crate) fn saved(
        &self,
        shared: &Arc<Shared>,
        before: Option<&Arc<PodRecord>>,
        now: Option<&Arc<PodRecord>>,
    ) {
        if let (Some(before), None) = (before, now) {
            self.stopped().remove(&before.id);
        }
        if !self.nri.watching() {
            return;
        }
        for (change, container) in between(before.map(|r| &**r), now.map(|r| &**r)) {
            // As it stands, or as it stood last.
            let Some(pod) = now.or(before) else { continue };
            let Some(id) = container else {
                match change {
                    Change::Started => drop(self.nri.settle(pod.id.as_str())),
                    Change::Deleted => self.tell_of_pod(Event::RemovePodSandbox, pod),
                    Change::Created | Change::Stopped => {}
                }
                continue;
            };
            let at = now.filter(|pod| pod.containers.contains_key(&id)).or(before);
            let Some((pod, c)) = at.and_then(|pod| Some((pod, pod.containers.get(&id)?))) else {
                continue;
            };
            let event = match change {
                Change::Created => {
                    self.nri.settle(id.as_str());
                    Event::PostCreateContainer
                }
                Change::Started => Event::PostStartContainer,
                Change::Stopped => Event::StopContainer,
                Change::Deleted => Event::RemoveContainer,
            };
            self.tell_of(shared, event, pod, c);
        }
        self.undone(shared, before, now);
    }

    /// What was asked about and never listed is gone: for plugins it has stopped and is removed.
    fn undone(
        &self,
        shared: &Arc<Shared>,
        before: Option<&Arc<PodRecord>>,
        now: Option<&Arc<PodRecord>>,
    ) {
        let Some(before) = before else { return };
        let gone = |id| now.is_none_or(|now| !now.containers.contains_key(id));
        for c in before.containers.values().filter(|c| !c.answered && gone(&c.id)) {
            if self.nri.settle(c.id.as_str()) {
                self.tell_of(shared, Event::StopContainer, before, c);
                self.tell_of(shared, Event::RemoveContainer, before, c);
            }
        }
        if now.is_some() {
            return;
        }
        if !before.answered && self.nri.settle(before.id.as_str()) {
            self.tell_of_pod(Event::RemovePodSandbox, before);
        }
    }

    fn tell_of_pod(&self, event: Event, pod: &Arc<PodRecord>) {
        if self.nri.active() {
            let pod = Arc::clone(pod);
            self.nri.tell(move || Telling::Pod(event, Box::new(describe::pod(&pod))));
        }
    }

    fn tell_of(
        &self,
        shared: &Arc<Shared>,
        event: Event,
        pod: &Arc<PodRecord>,
        c: &Arc<ContainerRecord>,
    ) {
        if !self.nri.active() {
            return;
        }
        let (shared, pod, c) = (Arc::downgrade(shared), Arc::clone(pod), Arc::clone(c));
        self.nri.tell(move || {
            let shared = shared.upgrade();
            let config = shared.and_then(|shared| config(Layout(&shared.settings), &c.id));
            let container = describe::container(&pod, &c, config.as_ref());
            Telling::Container(event, Box::new((describe::pod(&pod), container)))
        });
    }
}
