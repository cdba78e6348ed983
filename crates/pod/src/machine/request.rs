//! Calls: a verdict, then a wish and a waiter.

use std::sync::Arc;

use super::{Machine, Nanos, Reply, Request, Token, Wait};
use crate::Kind;
use crate::id::ContainerId;
use crate::job::Subject;
use crate::record::{
    ContainerRecord, ContainerWish, Failure, PodResources, PodWish, Stop, StopSignal,
};
use crate::spec::{Admitted, ContainerSpec, Resources};
use crate::verdict::{self, Verdict};

impl Machine {
    pub(super) fn request(&mut self, token: Token, request: Request, now: Nanos) {
        match request {
            Request::RunSandbox { digest } => self.run_sandbox(token, &digest),
            Request::StopSandbox => {
                self.wish(PodWish::Stop);
                self.waiters.push((token, Wait::Stopped));
            }
            Request::RemoveSandbox => {
                self.wish(PodWish::Remove);
                self.waiters.push((token, Wait::Removed));
            }
            Request::CreateContainer(id, spec) => self.create_container(token, id, spec, now),
            Request::StartContainer(id) => self.start_container(token, id),
            Request::StopContainer(id, grace) => {
                self.stop_container(token, id, now.saturating_add(grace));
            }
            Request::RemoveContainer(id) => self.remove_container(token, id, now),
            Request::UpdateSandbox(resources) => self.update_sandbox(token, *resources),
            Request::UpdateResources(id, resources) => self.update(token, id, resources),
        }
    }

    /// A wish only ever grows.
    pub(super) fn wish(&mut self, wish: PodWish) {
        if self.record.wish < wish {
            self.record_mut().wish = wish;
            self.dirty = true;
        }
    }

    /// A stop whose remaining grace is the shorter of the two wins.
    pub(super) fn wish_stop(&mut self, id: &ContainerId, kill_at: Nanos, remove: bool) {
        let Some(c) = self.record.containers.get(id) else { return };
        let wish = if remove { ContainerWish::Remove } else { ContainerWish::Stop };
        let stop = c.stop.unwrap_or(Stop { kill_at, signal: StopSignal::Due });
        let stop = Some(Stop { kill_at: stop.kill_at.min(kill_at), ..stop });
        if (c.wish < wish || c.stop != stop)
            && let Some(c) = self.record_mut().container_mut(id)
        {
            c.wish = c.wish.max(wish);
            c.stop = stop;
            self.dirty = true;
        }
    }

    fn refuse(&mut self, token: Token, failure: Failure) {
        self.out.push(super::Command::Reply(token, Err(failure)));
    }

    fn done(&mut self, token: Token) {
        self.reply_saved(token, Ok(Reply::Done));
    }

    fn absent(&mut self, token: Token, id: &ContainerId) {
        let message = format!("container {id} is not there: it has been removed");
        self.refuse(token, Failure::new(Kind::NotFound, message));
    }

    fn run_sandbox(&mut self, token: Token, digest: &str) {
        match verdict::run_sandbox(&self.record, digest) {
            Verdict::Done => self.reply_saved(token, Ok(Reply::Ready)),
            Verdict::Wait => self.waiters.push((token, Wait::Ready)),
            Verdict::Anew => {
                self.wish(PodWish::Remove);
                self.waiters.push((token, Wait::Gone));
            }
            Verdict::Refuse(failure) => self.refuse(token, failure),
        }
    }

    pub(super) fn create_container(
        &mut self,
        token: Token,
        id: ContainerId,
        spec: Box<Admitted<ContainerSpec>>,
        now: Nanos,
    ) {
        let named = self.record.containers.values().find(|c| c.spec.spec.name == spec.spec.name);
        let verdict = named.map(|c| (c.id.clone(), verdict::create_container(c, &spec.digest)));
        match verdict {
            Some((old, Verdict::Done)) => self.reply_saved(token, Ok(Reply::Container(old))),
            Some((old, Verdict::Wait)) => self.waiters.push((token, Wait::Created(old))),
            Some((old, Verdict::Anew)) => {
                self.wish_stop(&old, now, true);
                self.waiters.push((token, Wait::Recreate(old, id, spec)));
            }
            Some((_, Verdict::Refuse(failure))) => self.refuse(token, failure),
            None => match verdict::not_ready(&self.record) {
                Some(failure) => self.refuse(token, failure),
                None => {
                    let record = ContainerRecord::new(id.clone(), *spec, now);
                    self.record_mut().containers.insert(id.clone(), Arc::new(record));
                    self.dirty = true;
                    self.waiters.push((token, Wait::Created(id)));
                }
            },
        }
    }

    fn start_container(&mut self, token: Token, id: ContainerId) {
        let Some(c) = self.record.containers.get(&id) else { return self.absent(token, &id) };
        match verdict::start_container(&self.record, c) {
            Verdict::Refuse(failure) => self.refuse(token, failure),
            Verdict::Wait | Verdict::Anew => {
                if c.wish < ContainerWish::Run
                    && let Some(c) = self.record_mut().container_mut(&id)
                {
                    c.wish = ContainerWish::Run;
                    self.dirty = true;
                }
                self.waiters.push((token, Wait::Started(id)));
            }
            Verdict::Done => self.done(token),
        }
    }

    fn stop_container(&mut self, token: Token, id: ContainerId, kill_at: Nanos) {
        let Some(c) = self.record.containers.get(&id) else { return self.done(token) };
        match verdict::stop_container(c) {
            Verdict::Done => self.done(token),
            _ => {
                self.wish_stop(&id, kill_at, false);
                self.waiters.push((token, Wait::ContainerStopped(id)));
            }
        }
    }

    fn remove_container(&mut self, token: Token, id: ContainerId, now: Nanos) {
        if !self.record.containers.contains_key(&id) {
            return self.done(token);
        }
        self.wish_stop(&id, now, true);
        self.waiters.push((token, Wait::ContainerRemoved(id)));
    }

    fn update_sandbox(&mut self, token: Token, resources: PodResources) {
        if let Some(failure) = verdict::not_ready(&self.record) {
            return self.refuse(token, failure);
        }
        if self.record.resources() != resources {
            self.record_mut().changed = Some(resources);
            self.dirty = true;
        }
        self.done(token);
    }

    fn update(&mut self, token: Token, id: ContainerId, asked: Resources) {
        let Some(c) = self.record.containers.get(&id) else { return self.absent(token, &id) };
        match verdict::update_container(c) {
            Verdict::Refuse(failure) => self.refuse(token, failure),
            _ => {
                let Some(c) = self.record_mut().container_mut(&id) else { return };
                let changed = asked.over(&c.resources);
                let before = std::mem::replace(&mut c.resources, changed);
                c.changing.get_or_insert(before);
                if self.jobs.contains_key(&Subject::Update(id.clone())) {
                    self.update_again.insert(id.clone());
                }
                self.dirty = true;
                self.waiters.push((token, Wait::Updated(id)));
            }
        }
    }
}
