//! What came of jobs and saves.

use std::sync::Arc;

use super::{Command, LEFT_OVER_AFTER, Machine, Nanos, Reply, SECOND, Tries, Wait};
use crate::Kind;
use crate::holding::{ContainerHolding, Holding, PodHolding};
use crate::id::ContainerId;
use crate::job::{Job, Outcome, Subject, Verb};
use crate::record::{
    ContainerWish, Exit, Failure, Leftover, Lost, PodRecord, PodWish, Status, Stop, StopSignal,
};

/// What is known, of a job that failed, about the processes that it was about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    Unknown,
    Lives,
    Dead,
}

impl Machine {
    pub(super) fn ended(&mut self, job: &Job, outcome: Outcome, now: Nanos) {
        self.jobs.remove(&job.subject);
        match outcome {
            Outcome::Aborted => return,
            Outcome::Failed(failure) => return self.failed(job, failure, Life::Unknown, now),
            Outcome::Living(failure) => return self.failed(job, failure, Life::Lives, now),
            Outcome::Dead(failure) => return self.failed(job, failure, Life::Dead, now),
            Outcome::Pod(fact) => return self.acquired(job, |record| record.hold(fact)),
            Outcome::Container(fact) => {
                return self.acquired(job, |record| {
                    if let Some(c) = job.subject.container()
                        && let Some(c) = record.container_mut(c)
                    {
                        c.hold(fact);
                    }
                });
            }
            Outcome::Done => self.done_with(job, now),
            Outcome::Exited(exit) => self.exited(job, exit),
            Outcome::Lost(lost) => self.lost(lost),
        }
        if !matches!(job.verb, Verb::Kill { .. }) {
            self.tries.remove(&job.subject);
        }
        self.dirty = true;
    }

    /// A fact waits for the end of the acquisitions under way, or for what must be saved before.
    fn acquired(&mut self, job: &Job, hold: impl FnOnce(&mut PodRecord)) {
        hold(self.record_mut());
        self.tries.remove(&job.subject);
        self.facts = true;
    }

    /// The stop signal did not get out: it is sent again while the grace runs.
    fn unsent(&mut self, subject: &Subject, failure: Failure, now: Nanos) {
        if let Some(id) = subject.container() {
            self.signal_is(id, StopSignal::Due);
            self.try_again(subject, failure, now);
        }
    }

    fn signal_is(&mut self, id: &ContainerId, signal: StopSignal) {
        if let Some(stop) = self.record.containers.get(id).and_then(|c| c.stop) {
            self.set_stop(id, Stop { signal, ..stop });
            self.dirty = true;
        }
    }

    fn done_with(&mut self, job: &Job, now: Nanos) {
        match (&job.subject, job.verb) {
            (Subject::Pod(h), _) => self.record_mut().set(*h, false),
            (Subject::Container(id, h), _) => {
                if let Some(c) = self.record_mut().container_mut(id) {
                    c.set(*h, false);
                }
            }
            (Subject::Update(id), _) => {
                if self.update_again.remove(id) {
                    return;
                }
                if let Some(c) = self.record_mut().container_mut(id) {
                    c.changing = None;
                }
                for (token, _) in self.take_waiters(|w| *w == Wait::Updated(id.clone())) {
                    self.reply_saved(token, Ok(Reply::Done));
                }
            }
            (Subject::Signal(id), Verb::Terminate) => self.signal_is(id, StopSignal::Sent),
            // The kill was sent; if no exit follows, it is sent again with more force.
            (Subject::Signal(_), Verb::Kill { .. }) => {
                let text = "it was killed and has not exited yet";
                self.try_again(&job.subject, Failure::new(Kind::TimedOut, text), now);
            }
            _ => {}
        }
    }

    fn exited(&mut self, job: &Job, exit: Exit) {
        let Some(id) = job.subject.container().cloned() else { return };
        if let Some(c) = self.record_mut().container_mut(&id)
            && c.exit.is_none()
        {
            c.exit = Some(exit);
        }
        self.abort(&Subject::Signal(id.clone()));
        self.tries.remove(&Subject::Signal(id));
    }

    fn lost(&mut self, lost: Lost) {
        if self.record.lost.is_none() {
            self.record_mut().lost = Some(lost);
        }
    }

    fn failed(&mut self, job: &Job, failure: Failure, life: Life, now: Nanos) {
        match (&job.subject, job.verb) {
            (Subject::Pod(_), Verb::Acquire) => self.creation_failed(failure),
            (Subject::Container(id, h), Verb::Acquire) => {
                self.container_failed(&id.clone(), *h, failure);
            }
            (Subject::Update(id), _) => self.update_failed(&id.clone(), &failure),
            (subject, Verb::Terminate) => self.unsent(&subject.clone(), failure, now),
            (subject, _) => {
                self.try_again(subject, failure.clone(), now);
                if life == Life::Lives {
                    self.tell_who_lives(subject.container(), &failure);
                } else if job.verb == Verb::Release {
                    self.leave_over(&job.subject, failure, life, now);
                }
            }
        }
    }

    pub(super) fn creation_failed(&mut self, failure: Failure) {
        if self.record.failure.is_none() {
            self.record_mut().failure = Some(failure);
        }
        self.wish(PodWish::Remove);
        self.dirty = true;
    }

    pub(super) fn container_failed(
        &mut self,
        id: &ContainerId,
        holding: ContainerHolding,
        failure: Failure,
    ) {
        self.dirty = true;
        let Some(c) = self.record_mut().container_mut(id) else { return };
        if c.failure.is_none() {
            c.failure = Some(failure);
        }
        // What failed to start has ended once nothing of it is there; it stays listed.
        let started = matches!(holding, ContainerHolding::Task | ContainerHolding::Cgroup);
        let wish = if started { ContainerWish::Stop } else { ContainerWish::Remove };
        c.wish = c.wish.max(wish);
    }

    pub(super) fn update_failed(&mut self, id: &ContainerId, failure: &Failure) {
        self.update_again.remove(id);
        if let Some(c) = self.record_mut().container_mut(id)
            && let Some(before) = c.changing.take()
        {
            c.resources = before;
        }
        self.dirty = true;
        for (token, _) in self.take_waiters(|w| *w == Wait::Updated(id.clone())) {
            self.reply_saved(token, Err(failure.clone()));
        }
    }

    /// Notes a try that failed, and when the next is due: 0.2 s, doubling up to 30 s.
    fn try_again(&mut self, subject: &Subject, failure: Failure, now: Nanos) {
        let tries = self.tries.entry(subject.clone()).or_insert_with(|| Tries {
            failures: 0,
            since: now,
            next: now,
            last: failure.clone(),
        });
        tries.failures += 1;
        tries.last = failure;
        tries.next = now + (SECOND / 5 * (1 << tries.failures.min(8))).min(30 * SECOND);
    }

    /// A living process is never left over: whoever waits for its end is told of it.
    fn tell_who_lives(&mut self, container: Option<&ContainerId>, failure: &Failure) {
        let of = container.cloned();
        let told = self.take_waiters(|w| match w {
            Wait::Stopped | Wait::Removed | Wait::Gone => true,
            Wait::ContainerStopped(id) | Wait::ContainerRemoved(id) => Some(id) == of.as_ref(),
            _ => false,
        });
        for (token, _) in told {
            self.out.push(Command::Reply(token, Err(failure.clone())));
        }
    }

    fn leave_over(&mut self, subject: &Subject, failure: Failure, life: Life, now: Nanos) {
        let since = self.tries.get(subject).map_or(now, |t| t.since);
        let timed_out = failure.kind == Kind::TimedOut;
        let early = now - since < LEFT_OVER_AFTER;
        if early && !timed_out {
            return;
        }
        let ended = |id| self.record.containers.get(id).is_some_and(|c| c.exit.is_some());
        let wanted = |id| {
            let wish = self.record.containers.get(id).map(|c| c.wish);
            self.record.wish < PodWish::Stop && wish.is_some_and(|wish| wish < ContainerWish::Stop)
        };
        let holding = match subject {
            // What was not seen to end may still run, unless nobody is there: it is tried for ever.
            Subject::Container(id, ContainerHolding::Task)
                if !ended(id) && (early || life != Life::Dead) =>
            {
                return;
            }
            // Its bundle goes with it, and is still wanted.
            Subject::Container(id, ContainerHolding::Task) if wanted(id) => return,
            Subject::Container(_, h) => h.name(),
            Subject::Pod(h) => h.name(),
            _ => return,
        };
        let record = Arc::clone(&self.record);
        let leftover = |holding: &str| Leftover {
            pod: record.id.clone(),
            container: subject.container().cloned(),
            holding: holding.to_owned(),
            error: failure.message.clone(),
            since,
            boot_id: record.boot_id.clone(),
            record: Arc::clone(&record),
        };
        self.leftovers.push(leftover(holding));
        self.tries.remove(subject);
        self.done_with(&Job { subject: subject.clone(), verb: Verb::Release }, now);
        // What ends a task later needs the bundle that it was made from.
        if let Subject::Container(id, ContainerHolding::Task) = subject {
            self.leftovers.push(leftover(ContainerHolding::Bundle.name()));
            let subject = Subject::Container(id.clone(), ContainerHolding::Bundle);
            self.done_with(&Job { subject, verb: Verb::Release }, now);
        }
        self.dirty = true;
    }

    pub(super) fn saved(&mut self, generation: u64, result: Result<(), Failure>, now: Nanos) {
        let saved = self.saving.take();
        let queued = std::mem::take(&mut self.queued);
        let (ready, later): (Vec<_>, Vec<_>) = queued.into_iter().partition(|q| q.0 <= generation);
        self.queued = later;
        if let Err(why) = result {
            return self.save_failed(ready.into_iter().map(|(_, job)| job).collect(), &why, now);
        }
        self.save_again_at = None;
        self.saved_generation = generation;
        self.saved = saved;
        self.leftovers.drain(..std::mem::take(&mut self.unsaved_leftovers));
        for (_, job) in ready {
            self.start_now(job.subject, job.verb);
        }
    }

    /// Nothing is acquired without a saved intent; everything else goes on.
    fn save_failed(&mut self, waiting: Vec<Job>, why: &Failure, now: Nanos) {
        self.dirty = true;
        self.save_again_at = Some(now + SECOND);
        let text = format!("the pod's record cannot be saved: {}", why.message);
        let failure = Failure::new(why.kind, text);
        self.refuse_unsaved(&failure);
        for job in waiting {
            // The slot stays intended: an earlier try may have left something there.
            if job.verb != Verb::Acquire {
                self.start_now(job.subject, job.verb);
                continue;
            }
            self.failed(&job, failure.clone(), Life::Unknown, now);
        }
    }

    /// A creation whose answer cannot be saved is not answered: an equal call claims it later.
    fn refuse_unsaved(&mut self, failure: &Failure) {
        let creates = |reply: &Result<Reply, Failure>| {
            matches!(reply, Ok(Reply::Ready | Reply::Container(_)))
        };
        let (refused, kept) =
            std::mem::take(&mut self.replies).into_iter().partition(|(_, _, r)| creates(r));
        self.replies = kept;
        let saved = self.saved.clone();
        for (_, token, reply) in refused {
            match reply {
                Ok(Reply::Ready) => {
                    self.record_mut().answered = saved.as_ref().is_some_and(|s| s.answered);
                }
                Ok(Reply::Container(id)) => {
                    let saved = saved.as_ref().and_then(|s| s.containers.get(&id));
                    let saved = saved.is_some_and(|c| c.answered);
                    if let Some(c) = self.record_mut().container_mut(&id) {
                        c.answered = saved;
                    }
                }
                _ => {}
            }
            self.out.push(Command::Reply(token, Err(failure.clone())));
        }
    }

    fn removed(&self) -> Failure {
        let text = "it was removed before this call was done";
        self.record.failure.clone().unwrap_or_else(|| Failure::new(Kind::Cancelled, text))
    }

    pub(super) fn forgotten(&mut self) {
        for (token, wait) in std::mem::take(&mut self.waiters) {
            let reply = match wait {
                Wait::Ready | Wait::Created(_) | Wait::Started(_) | Wait::Updated(_) => {
                    Err(self.removed())
                }
                Wait::Gone => Ok(Reply::Anew),
                Wait::Recreate(..) => Err(Failure::new(
                    Kind::WrongState,
                    format!("sandbox {} has been removed", self.record.id),
                )),
                _ => Ok(Reply::Done),
            };
            self.out.push(Command::Reply(token, reply));
        }
        for (_, token, reply) in std::mem::take(&mut self.replies) {
            let reply = match reply {
                // It was about to be told, and is gone.
                Ok(Reply::Ready | Reply::Container(_)) => Err(self.removed()),
                other => other,
            };
            self.out.push(Command::Reply(token, reply));
        }
    }

    /// Does this pod hold nothing that ends when it stops?
    pub(super) fn stopped(&self) -> bool {
        let left = |h: &PodHolding| {
            h.ends() <= crate::holding::Ends::AtStop && self.record.status(*h) != Status::Absent
        };
        self.record.wish >= PodWish::Stop
            && !PodHolding::ALL.iter().any(left)
            && self.quiet_containers()
    }
}
