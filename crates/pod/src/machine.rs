//! The loop of one pod: events in, commands out, nothing else.
//!
//! ```text
//!   requests ─┐                                    ┌─▶ Save, Start, Abort
//!   outcomes ─┼─▶ handle ─▶ advance ─▶ commands ───┼─▶ Reply, Release what is left over
//!   saves, time                                    └─▶ WakeAt, Forget
//! ```
//!
//! An acquisition starts only after a save that holds its intent; a reply goes out only after a
//! save that holds what it tells; a release, after a save that holds its reason, but it does not wait
//! for a disk that takes no saves. Time is given with each event, in
//! nanoseconds since the epoch.

mod advance;
mod outcome;
mod request;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::holding::{Holding, PodHolding};
use crate::id::ContainerId;
use crate::job::{Job, Outcome, Subject, Verb};
use crate::plan::Busy;
use crate::record::{
    ContainerWish, Exit, Failure, Leftover, Lost, PodRecord, PodResources, PodWish, Status, Stop,
    StopSignal,
};
use crate::spec::{Admitted, ContainerSpec, Resources};

/// Names a caller that waits for a reply.
pub type Token = u64;

/// Nanoseconds since the epoch.
pub type Nanos = i64;

const SECOND: Nanos = 1_000_000_000;

/// A creation that nobody claims is removed after this.
pub const UNCLAIMED: Nanos = 120 * SECOND;
/// A release that fails for this long, and harms nobody, is left over.
pub const LEFT_OVER_AFTER: Nanos = 5 * SECOND;

/// A call, as the loop sees it.
#[derive(Clone, Debug)]
pub enum Request {
    /// RunPodSandbox with a configuration of this digest.
    RunSandbox {
        /// The digest.
        digest: String,
    },
    /// StopPodSandbox.
    StopSandbox,
    /// RemovePodSandbox.
    RemoveSandbox,
    /// CreateContainer; the id is used if a container is created.
    CreateContainer(ContainerId, Box<Admitted<ContainerSpec>>),
    /// StartContainer.
    StartContainer(ContainerId),
    /// StopContainer with a grace in nanoseconds.
    StopContainer(ContainerId, Nanos),
    /// RemoveContainer.
    RemoveContainer(ContainerId),
    /// UpdatePodSandboxResources, with the resources as they are to be.
    UpdateSandbox(Box<PodResources>),
    /// UpdateContainerResources: the limits to change; what is 0 or empty stays as it is.
    UpdateResources(ContainerId, Resources),
}

/// What a caller is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is done.
    Done,
    /// The sandbox is ready.
    Ready,
    /// This container was created.
    Container(ContainerId),
    /// What had this name is rolled back and gone: ask again.
    Anew,
}

/// What happens to a pod.
#[derive(Clone, Debug)]
pub enum Event {
    /// A caller asks for something.
    Request(Token, Request),
    /// A caller went away.
    CallerGone(Token),
    /// A job ended.
    Ended(Job, Outcome),
    /// A save ended.
    Saved(u64, Result<(), Failure>),
    /// The record has been deleted.
    Forgotten,
    /// Time has passed.
    Tick,
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Save the record as it stands now, and these leftovers, in one transaction.
    Save(u64, Vec<Leftover>),
    /// Start a job.
    Start(Job),
    /// Abort the job on this subject; its outcome still comes.
    Abort(Subject),
    /// Tell a caller.
    Reply(Token, Result<Reply, Failure>),
    /// Send a Tick at this time, if nothing happens before.
    WakeAt(Nanos),
    /// Nothing is held: delete the record, and save these leftovers.
    Forget(Vec<Leftover>),
}

/// What a waiting caller waits for.
#[derive(Clone, Debug, PartialEq)]
enum Wait {
    Ready,
    Gone,
    Stopped,
    Removed,
    Created(ContainerId),
    /// Until this container is gone; then the creation is tried again under the other id.
    Recreate(ContainerId, ContainerId, Box<Admitted<ContainerSpec>>),
    Started(ContainerId),
    ContainerStopped(ContainerId),
    ContainerRemoved(ContainerId),
    Updated(ContainerId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Running {
    verb: Verb,
    aborting: bool,
}

/// What is known of tries that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tries {
    /// How many in a row.
    pub failures: u32,
    /// When the first of them was.
    pub since: Nanos,
    /// When the next is due.
    pub next: Nanos,
    /// The last failure.
    pub last: Failure,
}

/// What makes a pod's holdings, or a container's, be let go: its wish, and that it is over. Until a
/// save holds it, a restarted daemon would take them for held: so no release starts before.
fn reason(record: &PodRecord, of: Option<&ContainerId>) -> Option<(u8, bool)> {
    match of {
        None => Some((record.wish as u8, record.lost.is_some())),
        Some(id) => record.containers.get(id).map(|c| (c.wish as u8, c.exit.is_some())),
    }
}

/// The loop of one pod.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Shared with pictures and jobs, which keep it as it was when they were made.
    record: Arc<PodRecord>,
    jobs: BTreeMap<Subject, Running>,
    /// Jobs that wait for the save of this generation or a later one.
    queued: Vec<(u64, Job)>,
    waiters: Vec<(Token, Wait)>,
    /// Replies that wait for a save.
    replies: Vec<(u64, Token, Result<Reply, Failure>)>,
    tries: BTreeMap<Subject, Tries>,
    /// Whose limits were changed again while the job ran: it is to run once more.
    update_again: BTreeSet<ContainerId>,
    unclaimed: BTreeMap<Option<ContainerId>, Nanos>,
    /// Left over and not yet saved; the first so many are in the save in flight.
    leftovers: Vec<Leftover>,
    unsaved_leftovers: usize,
    /// Intended together with what they need, and not begun.
    ahead: BTreeSet<Subject>,
    /// Save generations: the next to be made, and the last one that worked.
    generation: u64,
    saved_generation: u64,
    /// What the save in flight holds, and what the last one that worked held.
    saving: Option<Arc<PodRecord>>,
    saved: Option<Arc<PodRecord>>,
    /// Something has changed that a restarted daemon must know.
    dirty: bool,
    /// Something was acquired, which a restarted daemon would find out: it need not be saved at once.
    facts: bool,
    save_again_at: Option<Nanos>,
    forgetting: bool,
    out: Vec<Command>,
}

/// A stop signal of which a dead daemon knew only that it was to be sent is sent, perhaps again: to
/// hear it twice harms less than never to hear it and be killed at the end of the grace.
fn send_again(record: &mut PodRecord) {
    for c in record.containers.values_mut() {
        if let Some(stop) = c.stop
            && stop.signal == StopSignal::Intended
        {
            Arc::make_mut(c).stop = Some(Stop { signal: StopSignal::Due, ..stop });
        }
    }
}

impl Machine {
    /// A pod that is to be created.
    pub fn new(record: PodRecord) -> Self {
        Self {
            record: Arc::new(record),
            jobs: BTreeMap::new(),
            queued: Vec::new(),
            waiters: Vec::new(),
            replies: Vec::new(),
            tries: BTreeMap::new(),
            update_again: BTreeSet::new(),
            unclaimed: BTreeMap::new(),
            leftovers: Vec::new(),
            unsaved_leftovers: 0,
            ahead: BTreeSet::new(),
            generation: 1,
            saved_generation: 0,
            saving: None,
            saved: None,
            dirty: true,
            facts: false,
            save_again_at: None,
            forgetting: false,
            out: Vec::new(),
        }
    }

    /// A pod whose record a dead daemon left, in this boot or an earlier one.
    pub fn restore(mut record: PodRecord, boot_id: &str, now: Nanos) -> Self {
        let as_saved = record.clone();
        if record.boot_id != boot_id && record.lost != Some(Lost::Reboot) {
            let why = Lost::Reboot.reason();
            for c in record.containers.values_mut().map(Arc::make_mut) {
                if c.exit.is_none() && c.answered {
                    c.exit = Some(Exit {
                        code: 255,
                        at: now,
                        reason: "Error".into(),
                        message: why.clone(),
                    });
                }
                if !c.answered {
                    c.wish = ContainerWish::Remove;
                }
            }
            if !record.answered {
                record.wish = PodWish::Remove;
            }
            record.lost = Some(Lost::Reboot);
        }
        send_again(&mut record);
        let dirty = record != as_saved;
        let mut machine = Self { dirty, ..Self::new(record) };
        let same = || Arc::clone(&machine.record);
        machine.saved = Some(if dirty { Arc::new(as_saved) } else { same() });
        machine
    }

    /// The pod is to be removed though nobody has asked: another one has its name.
    pub fn remove(&mut self) {
        self.wish(PodWish::Remove);
    }

    /// The record as it stands.
    pub fn record(&self) -> &Arc<PodRecord> {
        &self.record
    }

    /// The record, to be changed. What others hold of it stays as it was.
    fn record_mut(&mut self) -> &mut PodRecord {
        Arc::make_mut(&mut self.record)
    }

    /// Work in progress.
    pub fn jobs(&self) -> impl Iterator<Item = Job> + '_ {
        self.jobs.iter().map(|(subject, r)| Job { subject: subject.clone(), verb: r.verb })
    }

    /// Tries that failed, by subject.
    pub fn tries(&self) -> &BTreeMap<Subject, Tries> {
        &self.tries
    }

    /// Is the pod shown in lists: its creation was answered, or its roll-back cannot finish.
    pub fn listed(&self) -> bool {
        self.record.answered || self.tries.keys().any(|s| matches!(s, Subject::Pod(_)))
    }

    /// Is this container shown in lists, by the same rule.
    pub fn container_listed(&self, id: &ContainerId) -> bool {
        self.record.containers.get(id).is_some_and(|c| c.answered)
            || self.tries.keys().any(|s| matches!(s, Subject::Container(on, _) if on == id))
    }

    /// Takes an event and gives what is to be done.
    pub fn handle(&mut self, event: Event, now: Nanos) -> Vec<Command> {
        match event {
            Event::Request(token, request) => self.request(token, request, now),
            Event::CallerGone(token) => self.waiters.retain(|(t, _)| *t != token),
            Event::Ended(job, outcome) => self.ended(&job, outcome, now),
            Event::Saved(generation, result) => self.saved(generation, result, now),
            Event::Forgotten => self.forgotten(),
            Event::Tick => {}
        }
        self.advance(now);
        std::mem::take(&mut self.out)
    }

    /// Starts the loop: what is to be done before anything happens.
    pub fn start(&mut self, now: Nanos) -> Vec<Command> {
        self.advance(now);
        std::mem::take(&mut self.out)
    }

    fn busy(&self, subject: &Subject) -> Busy {
        if self.queued.iter().any(|(_, job)| job.subject == *subject) {
            return Busy::Acquiring;
        }
        match self.jobs.get(subject) {
            None => Busy::Idle,
            Some(r) if r.aborting || r.verb == Verb::Release => Busy::Leaving,
            Some(_) => Busy::Acquiring,
        }
    }

    fn due(&self, subject: &Subject, now: Nanos) -> bool {
        self.tries.get(subject).is_none_or(|t| t.next <= now)
    }

    /// May what this wish, exit or loss lets go be released: it is saved, or saving fails.
    fn may_release(&self, of: Option<&ContainerId>) -> bool {
        let saved = self.saved.as_ref();
        let saved = saved.is_some_and(|saved| reason(saved, of) == reason(&self.record, of));
        saved || (self.save_again_at.is_some() && self.saving.is_none())
    }

    /// Does the disk say that this is intended, also once the save in flight has worked?
    fn intent_saved(&self, subject: &Subject) -> bool {
        let intended = |record: &Arc<PodRecord>| record.status_of(subject) != Status::Absent;
        self.saved.as_ref().is_some_and(intended) && self.saving.as_ref().is_none_or(intended)
    }

    /// Acquires what the record says is intended, once that is saved.
    fn acquire(&mut self, subject: Subject) {
        self.ahead.remove(&subject);
        if self.intent_saved(&subject) {
            self.start_now(subject, Verb::Acquire);
        } else {
            self.start_saved(subject, Verb::Acquire);
        }
    }

    /// Starts a job that needs no save before it.
    fn start_now(&mut self, subject: Subject, verb: Verb) {
        self.jobs.insert(subject.clone(), Running { verb, aborting: false });
        self.out.push(Command::Start(Job { subject, verb }));
    }

    /// Starts a job once what the record says now is saved.
    fn start_saved(&mut self, subject: Subject, verb: Verb) {
        self.dirty = true;
        self.queued.push((self.generation, Job { subject, verb }));
    }

    fn abort(&mut self, subject: &Subject) {
        if let Some(at) = self.queued.iter().position(|(_, job)| job.subject == *subject) {
            self.queued.remove(at);
        } else if let Some(running) = self.jobs.get_mut(subject)
            && !running.aborting
        {
            running.aborting = true;
            self.out.push(Command::Abort(subject.clone()));
        }
    }

    /// Replies once what the record says now is saved.
    fn reply_saved(&mut self, token: Token, reply: Result<Reply, Failure>) {
        self.dirty |= self.facts;
        // The one in flight is the last one made.
        let made = self.generation - u64::from(!self.dirty);
        self.replies.push((made, token, reply));
    }

    /// Takes the waiters out that wait for what `which` says.
    fn take_waiters(&mut self, which: impl Fn(&Wait) -> bool) -> Vec<(Token, Wait)> {
        let (taken, kept) =
            std::mem::take(&mut self.waiters).into_iter().partition(|(_, w)| which(w));
        self.waiters = kept;
        taken
    }

    fn quiet_containers(&self) -> bool {
        self.record.containers.values().all(|c| c.quiet())
            && !self.jobs.keys().any(|s| matches!(s, Subject::Container(..)))
            && !self.queued.iter().any(|(_, job)| job.subject.container().is_some())
    }

    fn nothing_under_way(&self, of: Option<&ContainerId>) -> bool {
        let mine = |s: &Subject| of.is_none() || s.container() == of;
        !self.jobs.keys().any(&mine) && !self.queued.iter().any(|(_, j)| mine(&j.subject))
    }

    fn holds_nothing(&self) -> bool {
        PodHolding::ALL.iter().all(|h| self.record.status(*h) == Status::Absent)
            && self.record.containers.is_empty()
            && self.nothing_under_way(None)
    }

    fn container_ids(&self) -> BTreeSet<ContainerId> {
        self.record.containers.keys().cloned().collect()
    }
}
