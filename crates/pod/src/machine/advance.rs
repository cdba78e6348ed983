//! The next steps: what the wishes, the facts and the time ask for.

use std::sync::Arc;

use super::{Command, Machine, Nanos, Reply, UNCLAIMED, Wait};
use crate::Kind;
use crate::holding::{ContainerHolding, PodHolding};
use crate::id::ContainerId;
use crate::job::{Subject, Verb};
use crate::plan::{self, Busy, Goal, Step};
use crate::record::{ContainerWish, Exit, Failure, PodWish, Status, Stop, StopSignal};
use crate::verdict;

impl Machine {
    /// Takes every step that can be taken now.
    pub(super) fn advance(&mut self, now: Nanos) {
        if self.forgetting {
            return;
        }
        self.cascade(now);
        for id in self.container_ids() {
            self.container_steps(&id, now);
            self.signals(&id, now);
            self.watch_exit(&id, now);
            self.update_limits(&id);
            self.drop_removed(&id, now);
        }
        self.pod_steps(now);
        self.watch_sandbox(now);
        self.answer_pod(now);
        for id in self.container_ids() {
            self.answer_container(&id, now);
        }
        self.save(now);
        self.answer_saved();
        self.wake(now);
    }

    /// A pod's wish, and its loss, concern its containers.
    fn cascade(&mut self, now: Nanos) {
        self.roll_back_lost();
        let ending = self.record.wish >= PodWish::Stop;
        if !ending && self.record.lost.is_none() {
            return;
        }
        let why = verdict::not_ready(&self.record)
            .unwrap_or_else(|| Failure::new(Kind::WrongState, "the sandbox is not ready"));
        for id in self.container_ids() {
            let starting = Subject::Container(id.clone(), ContainerHolding::Task);
            let idle = self.busy(&starting) == Busy::Idle;
            let Some(c) = self.record.containers.get(&id) else { continue };
            if !c.answered
                && c.wish == ContainerWish::Create
                && let Some(c) = self.record_mut().container_mut(&id)
            {
                c.failure.get_or_insert(why.clone());
                c.wish = ContainerWish::Remove;
                self.dirty = true;
            }
            let Some(c) = self.record.containers.get(&id) else { continue };
            let starts = c.wish == ContainerWish::Run && c.exit.is_none();
            // A grace of its own ends with the pod.
            let stops = c.wish == ContainerWish::Stop && c.exit.is_none();
            if starts && !c.running() && !ending && idle {
                self.container_failed(&id, ContainerHolding::Task, why.clone());
            }
            if self.record.wish == PodWish::Remove {
                self.wish_stop(&id, now, true);
            } else if ending && (starts || stops) {
                self.wish_stop(&id, now, false);
            }
        }
    }

    /// A sandbox that is lost before anybody was told of it can never be ready: it is rolled back.
    fn roll_back_lost(&mut self) {
        if let Some(lost) = &self.record.lost
            && !self.record.answered
            && self.record.wish == PodWish::Run
        {
            let failure = Failure::new(Kind::Unavailable, lost.reason());
            self.creation_failed(failure);
        }
    }

    fn container_steps(&mut self, id: &ContainerId, now: Nanos) {
        let on = |h| Subject::Container(id.clone(), h);
        self.give_up_ahead(Some(id));
        let Some(c) = self.record.containers.get(id) else { return };
        let ready = self.record.ready();
        // A start that a dead daemon began is finished first: the change waits for it.
        let updating = c.changing.is_some() && c.task.status() == Status::Absent;
        let update_idle = self.busy(&Subject::Update(id.clone())) == Busy::Idle;
        let saved = self.may_release(Some(id));
        let goal = |h| plan::container_goal(c, h);
        let gate = |step| match step {
            Step::Acquire(ContainerHolding::Task) => ready && c.answered && !updating,
            Step::Acquire(_) => ready,
            Step::Release(h) => saved && update_idle && self.due(&on(h), now),
            Step::Abort(_) => true,
        };
        let steps = plan::steps(goal, |h| c.status(h), |h| self.busy(&on(h)), &gate);
        if steps.iter().any(|step| matches!(step, Step::Acquire(_))) {
            let ahead = plan::ahead(goal, |h| c.status(h), &gate);
            for h in ahead {
                if let Some(c) = self.record_mut().container_mut(id) {
                    c.set(h, true);
                }
                self.ahead.insert(on(h));
            }
        }
        for step in steps {
            match step {
                Step::Acquire(h) => self.acquire(on(h)),
                Step::Release(h) => self.start_now(on(h), Verb::Release),
                Step::Abort(h) => self.abort(&on(h)),
            }
        }
        self.end_unstarted(id, now);
    }

    /// A container that was stopped before it ran has ended too.
    fn end_unstarted(&mut self, id: &ContainerId, now: Nanos) {
        let busy = !self.nothing_under_way(Some(id));
        let Some(c) = self.record.containers.get(id) else { return };
        if c.wish == ContainerWish::Stop
            && c.exit.is_none()
            && c.quiet()
            && !busy
            && let Some(c) = self.record_mut().container_mut(id)
        {
            c.exit = Some(match &c.failure {
                Some(failure) => Exit {
                    code: 128,
                    at: now,
                    reason: "StartError".into(),
                    message: failure.message.clone(),
                },
                None => Exit {
                    code: 137,
                    at: now,
                    reason: "Error".into(),
                    message: "it was stopped before it ran".into(),
                },
            });
            self.dirty = true;
        }
    }

    /// What was only intended is let go without more ado when it is no longer wanted.
    fn give_up_ahead(&mut self, of: Option<&ContainerId>) {
        let unwanted = |subject: &Subject| match (subject, of) {
            (Subject::Pod(h), None) => plan::pod_goal(&self.record, *h) == Goal::Release,
            (Subject::Container(id, h), Some(of)) if id == of => {
                let c = self.record.containers.get(id);
                c.is_none_or(|c| plan::container_goal(c, *h) == Goal::Release)
            }
            _ => false,
        };
        let unwanted: Vec<Subject> = self.ahead.iter().filter(|s| unwanted(s)).cloned().collect();
        for subject in unwanted {
            self.ahead.remove(&subject);
            match &subject {
                Subject::Pod(h) => self.record_mut().set(*h, false),
                Subject::Container(id, h) => {
                    if let Some(c) = self.record_mut().container_mut(id) {
                        c.set(*h, false);
                    }
                }
                _ => {}
            }
            self.dirty = true;
        }
    }

    fn pod_steps(&mut self, now: Nanos) {
        self.give_up_ahead(None);
        let quiet = self.quiet_containers();
        let unwatched = self.busy(&Subject::Sandbox) == Busy::Idle;
        let saved = self.may_release(None);
        let goal = |h| plan::pod_goal(&self.record, h);
        let gate = |step| match step {
            Step::Release(h) => {
                let due = self.due(&Subject::Pod(h), now);
                saved && due && (quiet && unwatched || h == PodHolding::Files)
            }
            Step::Acquire(_) | Step::Abort(_) => true,
        };
        let status = |h| self.record.status(h);
        let steps = plan::steps(goal, status, |h| self.busy(&Subject::Pod(h)), &gate);
        if steps.iter().any(|step| matches!(step, Step::Acquire(_))) {
            for h in plan::ahead(goal, status, &gate) {
                self.record_mut().set(h, true);
                self.ahead.insert(Subject::Pod(h));
            }
        }
        for step in steps {
            match step {
                Step::Acquire(h) => self.acquire(Subject::Pod(h)),
                Step::Release(h) => self.start_now(Subject::Pod(h), Verb::Release),
                Step::Abort(h) => self.abort(&Subject::Pod(h)),
            }
        }
    }

    /// The stop signal once, then, when the grace is over, kills until it is dead.
    fn signals(&mut self, id: &ContainerId, now: Nanos) {
        let subject = Subject::Signal(id.clone());
        let busy = self.busy(&subject);
        let due = self.due(&subject, now);
        let failures = self.tries.get(&subject).map_or(0, |t| t.failures);
        let Some(c) = self.record.containers.get(id) else { return };
        if !c.running() || c.wish < ContainerWish::Stop {
            return;
        }
        let Some(stop) = c.stop else {
            let stop = Stop { kill_at: now, signal: StopSignal::Due };
            self.set_stop(id, stop);
            return self.signals(id, now);
        };
        if now >= stop.kill_at {
            let terminating = self.jobs.get(&subject).is_some_and(|r| r.verb == Verb::Terminate);
            if busy == Busy::Idle && due {
                self.start_now(subject, Verb::Kill { tries: failures });
            } else if terminating || !self.jobs.contains_key(&subject) {
                self.abort(&subject);
            }
        } else if stop.signal == StopSignal::Due && busy == Busy::Idle && due {
            self.set_stop(id, Stop { signal: StopSignal::Intended, ..stop });
            self.start_saved(subject, Verb::Terminate);
        }
    }

    pub(super) fn set_stop(&mut self, id: &ContainerId, stop: Stop) {
        if let Some(c) = self.record_mut().container_mut(id) {
            c.stop = Some(stop);
        }
    }

    fn watch_exit(&mut self, id: &ContainerId, now: Nanos) {
        let subject = Subject::Exit(id.clone());
        let runs = self.record.containers.get(id).is_some_and(|c| c.running());
        if runs && self.busy(&subject) == Busy::Idle && self.due(&subject, now) {
            self.start_now(subject, Verb::Watch);
        }
    }

    fn watch_sandbox(&mut self, now: Nanos) {
        let r = &self.record;
        let held = r.status(PodHolding::Sandbox) == Status::Held;
        let wanted = held && r.lost.is_none() && r.wish == PodWish::Run;
        match self.busy(&Subject::Sandbox) {
            Busy::Idle if wanted && self.due(&Subject::Sandbox, now) => {
                self.start_now(Subject::Sandbox, Verb::Watch);
            }
            Busy::Acquiring if !wanted => self.abort(&Subject::Sandbox),
            _ => {}
        }
    }

    fn update_limits(&mut self, id: &ContainerId) {
        let task = Subject::Container(id.clone(), ContainerHolding::Task);
        let subject = Subject::Update(id.clone());
        let Some(c) = self.record.containers.get(id) else { return };
        if c.changing.is_none() {
            return;
        }
        if c.exit.is_some() || c.wish >= ContainerWish::Stop {
            if self.busy(&subject) == Busy::Idle {
                let text = format!("container {id} stopped before its resources were changed");
                self.update_failed(id, &Failure::new(Kind::WrongState, text));
            }
            return;
        }
        let settled = c.task.status() != Status::Intended && self.busy(&task) == Busy::Idle;
        if c.created() && settled && self.busy(&subject) == Busy::Idle {
            self.start_saved(subject, Verb::Update);
        }
    }

    fn drop_removed(&mut self, id: &ContainerId, now: Nanos) {
        let Some(c) = self.record.containers.get(id) else { return };
        use crate::holding::Holding as _;
        let holds = ContainerHolding::ALL.iter().any(|h| c.status(*h) != Status::Absent);
        if c.wish != ContainerWish::Remove || holds || !self.nothing_under_way(Some(id)) {
            return;
        }
        let failure = c.failure.clone().unwrap_or_else(|| {
            Failure::new(
                Kind::Cancelled,
                format!("container {id} was removed before this call was done"),
            )
        });
        self.record_mut().containers.remove(id);
        // A creation that waits for a save to be told of is told otherwise now.
        for (_, _, reply) in &mut self.replies {
            if matches!(reply, Ok(Reply::Container(created)) if created == id) {
                *reply = Err(failure.clone());
            }
        }
        self.update_again.remove(id);
        self.unclaimed.remove(&Some(id.clone()));
        self.tries.retain(|s, _| s.container() != Some(id));
        self.dirty = true;
        let concerned = self.take_waiters(|w| match w {
            Wait::Created(x) | Wait::Started(x) | Wait::ContainerStopped(x) => x == id,
            Wait::ContainerRemoved(x) | Wait::Updated(x) | Wait::Recreate(x, _, _) => x == id,
            _ => false,
        });
        for (token, wait) in concerned {
            match wait {
                Wait::Recreate(_, new, spec) => self.create_container(token, new, spec, now),
                Wait::ContainerRemoved(_) | Wait::ContainerStopped(_) => {
                    self.reply_saved(token, Ok(Reply::Done));
                }
                _ => self.reply_saved(token, Err(failure.clone())),
            }
        }
    }

    fn answer_pod(&mut self, now: Nanos) {
        if self.record.ready() && !self.record.answered {
            let waiting = self.take_waiters(|w| *w == Wait::Ready);
            if waiting.is_empty() {
                self.leave_unclaimed(None, now);
            } else {
                self.record_mut().answered = true;
                self.dirty = true;
                self.unclaimed.remove(&None);
            }
            for (token, _) in waiting {
                self.reply_saved(token, Ok(Reply::Ready));
            }
        }
        if self.record.wish >= PodWish::Stop {
            self.answer_ending();
        }
    }

    fn answer_ending(&mut self) {
        let stuck = self.tries.keys().any(|s| matches!(s, Subject::Pod(_)));
        if self.record.failure.is_none() || stuck {
            let failure = self.record.failure.clone().unwrap_or_else(|| {
                Failure::new(Kind::Cancelled, "the sandbox was stopped while it was being created")
            });
            for (token, _) in self.take_waiters(|w| *w == Wait::Ready) {
                self.reply_saved(token, Err(failure.clone()));
            }
        }
        if self.stopped() {
            for (token, _) in self.take_waiters(|w| *w == Wait::Stopped) {
                self.reply_saved(token, Ok(Reply::Done));
            }
            // Nobody can name a sandbox that was never answered: it is not left lying.
            if !self.record.answered && !stuck {
                self.wish(PodWish::Remove);
            }
        }
    }

    fn answer_container(&mut self, id: &ContainerId, now: Nanos) {
        let stuck = self.tries.keys().any(|s| s.container() == Some(id));
        let Some(c) = self.record.containers.get(id) else { return };
        let created = c.created() && !c.answered && c.wish == ContainerWish::Create;
        let started = c.running() || c.started_at.is_some();
        let (exit, failure) = (c.exit.clone(), c.failure.clone());
        if created {
            let waiting = self.take_waiters(|w| *w == Wait::Created(id.clone()));
            if waiting.is_empty() {
                self.leave_unclaimed(Some(id), now);
            } else if let Some(c) = self.record_mut().container_mut(id) {
                c.answered = true;
                self.dirty = true;
                self.unclaimed.remove(&Some(id.clone()));
            }
            for (token, _) in waiting {
                self.reply_saved(token, Ok(Reply::Container(id.clone())));
            }
        }
        if let (Some(failure), true) = (&failure, stuck) {
            for (token, _) in self.take_waiters(|w| *w == Wait::Created(id.clone())) {
                self.reply_saved(token, Err(failure.clone()));
            }
        }
        if started || exit.is_some() {
            for (token, _) in self.take_waiters(|w| *w == Wait::Started(id.clone())) {
                let text = exit.as_ref().map_or_else(String::new, |e| e.message.clone());
                let failed = || failure.clone().unwrap_or(Failure::new(Kind::Cancelled, text));
                let reply = if started { Ok(Reply::Done) } else { Err(failed()) };
                self.reply_saved(token, reply);
            }
        }
        if exit.is_some() {
            for (token, _) in self.take_waiters(|w| *w == Wait::ContainerStopped(id.clone())) {
                self.reply_saved(token, Ok(Reply::Done));
            }
        }
    }

    /// Created whole, but whoever asked is gone: the next equal call claims it, or time removes it.
    fn leave_unclaimed(&mut self, id: Option<&ContainerId>, now: Nanos) {
        let since = *self.unclaimed.entry(id.cloned()).or_insert(now);
        if now - since < UNCLAIMED {
            return;
        }
        let failure = Failure::new(Kind::Cancelled, "nobody waited for its creation any more");
        self.unclaimed.remove(&id.cloned());
        self.dirty = true;
        match id {
            None => {
                self.record_mut().failure = Some(failure);
                self.wish(PodWish::Remove);
            }
            Some(id) => {
                if let Some(c) = self.record_mut().container_mut(id) {
                    c.failure = Some(failure);
                    c.wish = ContainerWish::Remove;
                }
            }
        }
    }

    fn save(&mut self, now: Nanos) {
        if self.saving.is_some() {
            return;
        }
        if self.record.wish == PodWish::Remove && self.holds_nothing() {
            self.forgetting = true;
            self.out.push(Command::Forget(std::mem::take(&mut self.leftovers)));
            return;
        }
        let acquiring = self.jobs.values().any(|running| running.verb == Verb::Acquire);
        let wanted = self.dirty || (self.facts && !acquiring);
        if wanted && self.save_again_at.is_none_or(|at| at <= now) {
            let generation = self.generation;
            self.generation += 1;
            self.saving = Some(Arc::clone(&self.record));
            self.dirty = false;
            self.facts = false;
            self.unsaved_leftovers = self.leftovers.len();
            self.out.push(Command::Save(generation, self.leftovers.clone()));
        }
    }

    /// Replies go out once what they tell is saved; when saving fails, those that end something
    /// go out all the same.
    fn answer_saved(&mut self) {
        let (saved, failing) = (self.saved_generation, self.save_again_at.is_some());
        let replies = std::mem::take(&mut self.replies);
        for (generation, token, reply) in replies {
            let creates = matches!(reply, Ok(Reply::Ready | Reply::Container(_)));
            if generation <= saved || (failing && !creates) {
                self.out.push(Command::Reply(token, reply));
            } else {
                self.replies.push((generation, token, reply));
            }
        }
    }

    fn wake(&mut self, now: Nanos) {
        let tries = self.tries.values().map(|t| t.next);
        let kills = self.record.containers.values();
        let kills = kills.filter(|c| c.running()).filter_map(|c| c.stop.map(|s| s.kill_at));
        let unclaimed = self.unclaimed.values().map(|since| since + UNCLAIMED);
        let next = tries.chain(kills).chain(unclaimed).chain(self.save_again_at);
        if let Some(at) = next.filter(|at| *at > now).min() {
            self.out.push(Command::WakeAt(at));
        }
    }
}
