//! The task of one pod: it owns the loop's state and never awaits an effect.
//!
//! ```text
//!   RPC handlers ──▶ queue ──▶ Machine::handle ──▶ commands
//!   jobs, saves  ──▶              │                  ├─ spawn a job, abort one
//!   timer        ──▶              │                  ├─ hand a save to the records' writer
//!                                 ├─ publish         └─ reply
//!                                 └─ a panic ──▶ recovery, from what was saved last
//! ```

mod recovery;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use berth_pod::Kind;
use berth_pod::job::{Job, Outcome, Subject};
use berth_pod::machine::{Command, Event, Machine, Nanos, Reply, Request, Token};
use berth_pod::record::{Failure, Leftover, PodRecord};
use berth_records::Save;
use tokio::sync::{mpsc, oneshot};

use crate::effect::{self, Context};
use crate::layout::Layout;
use crate::picture;
use crate::shared::Shared;
use crate::view::PodView;

/// What a pod's task is told. All of it is boxed: each pod's queue has room for 32 of these, or 64,
/// for as long as the pod lives.
pub(crate) enum Message {
    /// A caller asks.
    Request(Box<Asked>),
    /// A caller went away.
    CallerGone(Token),
    /// A job ended.
    Ended(Box<(Job, Outcome)>),
    /// The save of this generation ended.
    Saved(Box<(u64, Result<(), Failure>)>),
    /// The record is deleted, or cannot be.
    Forgotten,
    /// The shim does not answer, or answers again.
    Silent(bool),
}

/// What a caller asks, and whom to tell.
pub(crate) struct Asked {
    pub(crate) token: Token,
    pub(crate) request: Request,
    pub(crate) reply: oneshot::Sender<Result<Reply, Failure>>,
}

/// A job in progress.
pub(crate) struct InProgress {
    pub(crate) since: Nanos,
    pub(crate) job: Job,
    cancel: effect::Cancel,
}

/// What the loop handles between two waits.
pub(crate) enum Turn {
    /// It begins, or begins anew.
    Begin,
    /// Something happened.
    Event(Event),
    /// Only the picture has changed.
    Show,
}

/// What of the record is on the disk.
#[derive(Default)]
struct OnDisk {
    /// The last save that worked; none before the first.
    saved: Option<Arc<PodRecord>>,
    /// The save in flight, by its generation.
    saving: Option<(u64, Arc<PodRecord>)>,
    /// The row is being deleted.
    forgetting: bool,
}

/// Tells the task how a job ended, also when the job itself is cut short.
struct Ending {
    own: mpsc::UnboundedSender<Message>,
    job: Option<Job>,
}

impl Ending {
    fn tell(mut self, outcome: Outcome) {
        if let Some(job) = self.job.take() {
            let _ = self.own.send(Message::Ended(Box::new((job, outcome))));
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(job) = self.job.take() {
            let text = format!("{job}: a bug: it ended without an outcome");
            let outcome = Outcome::Failed(Failure::new(Kind::Broken, text));
            let _ = self.own.send(Message::Ended(Box::new((job, outcome))));
        }
    }
}

/// The task's state.
pub(crate) struct PodTask {
    shared: Arc<Shared>,
    machine: Machine,
    queue: mpsc::UnboundedReceiver<Message>,
    own: mpsc::UnboundedSender<Message>,
    callers: HashMap<Token, oneshot::Sender<Result<Reply, Failure>>>,
    jobs: HashMap<Subject, InProgress>,
    wake_at: Option<Nanos>,
    silent: bool,
    on_disk: OnDisk,
    /// The last picture.
    view: Option<Arc<PodView>>,
    gone: bool,
    /// Keeps checkpoints away while the pod is being created.
    creating: Option<berth_records::Creating>,
}

/// Starts the task of a pod. `saved` is its record as it lies on the disk, if it does.
pub(crate) fn start(
    shared: &Arc<Shared>,
    machine: Machine,
    saved: Option<Arc<PodRecord>>,
    queue: (mpsc::UnboundedSender<Message>, mpsc::UnboundedReceiver<Message>),
) {
    tokio::spawn(PodTask::new(shared, machine, saved, queue).run(PodTask::take));
}

impl PodTask {
    fn new(
        shared: &Arc<Shared>,
        machine: Machine,
        saved: Option<Arc<PodRecord>>,
        (own, queue): (mpsc::UnboundedSender<Message>, mpsc::UnboundedReceiver<Message>),
    ) -> Box<Self> {
        let creating = (!machine.record().answered).then(|| shared.records.creating());
        Box::new(Self {
            shared: Arc::clone(shared),
            machine,
            queue,
            own,
            callers: HashMap::new(),
            jobs: HashMap::new(),
            wake_at: None,
            silent: false,
            on_disk: OnDisk { saved, ..OnDisk::default() },
            view: None,
            gone: false,
            creating,
        })
    }

    /// Takes one turn after the other with `take`, until the pod is gone. Boxed, since a future has
    /// room both for what it is given and for what it makes of it.
    async fn run(mut self: Box<Self>, take: impl Fn(&mut Self, Turn)) {
        let mut panics = recovery::Panics::default();
        let mut next = Some(Turn::Begin);
        while let Some(turn) = next {
            let taken = catch_unwind(AssertUnwindSafe(|| take(&mut self, turn)));
            next = match taken {
                Ok(()) if self.gone => None,
                Ok(()) => self.wait().await,
                Err(why) => {
                    let pause = panics.pause(tokio::time::Instant::now());
                    // Boxed: each pod's task would keep room for it.
                    let back = Box::pin(self.recover(&recovery::text(&*why), pause)).await;
                    back.then_some(Turn::Begin)
                }
            };
        }
    }

    async fn wait(&mut self) -> Option<Turn> {
        let message = match self.wake_at.map(|at| self.shared.until(at)) {
            None => self.queue.recv().await,
            // Boxed: nearly all of the time there is no timer.
            Some(wait) => match Box::pin(tokio::time::timeout(wait, self.queue.recv())).await {
                Ok(message) => message,
                Err(_) => return Some(Turn::Event(Event::Tick)),
            },
        };
        message.map(|message| self.note(message))
    }

    /// Notes what the driver itself must know of a message, whatever comes of its turn.
    fn note(&mut self, message: Message) -> Turn {
        Turn::Event(match message {
            Message::Request(asked) => {
                self.callers.insert(asked.token, asked.reply);
                Event::Request(asked.token, asked.request)
            }
            Message::CallerGone(token) => {
                self.callers.remove(&token);
                Event::CallerGone(token)
            }
            Message::Ended(ended) => {
                let (job, outcome) = *ended;
                self.jobs.remove(&job.subject);
                Event::Ended(job, outcome)
            }
            Message::Saved(saved) => {
                let (generation, result) = *saved;
                let saving = self.on_disk.saving.take_if(|(of, _)| *of == generation);
                if let (Some((_, record)), Ok(())) = (saving, &result) {
                    let before = self.on_disk.saved.replace(record);
                    let now = self.on_disk.saved.as_ref();
                    self.shared.plugins.saved(&self.shared, before.as_ref(), now);
                    let (before, now) = (before.as_deref(), now.map(|record| &**record));
                    self.shared.feed.tell(before, now, self.view.as_ref());
                }
                Event::Saved(generation, result)
            }
            Message::Forgotten => {
                // Gone from the lists before anybody is told that it is gone.
                self.leave();
                Event::Forgotten
            }
            Message::Silent(silent) => {
                self.silent = silent;
                return Turn::Show;
            }
        })
    }

    fn leave(&mut self) {
        let record = self.machine.record();
        self.shared.registry.remove(&record.id, &record.spec.spec.name);
        self.shared.plugins.saved(&self.shared, self.on_disk.saved.as_ref(), None);
        self.shared.feed.tell(self.on_disk.saved.as_deref(), None, self.view.as_ref());
        self.shared.tidy_handlers();
        let files = Layout(&self.shared.settings).sandbox_files(&record.id);
        tokio::spawn(effect::drop_files(files));
        self.gone = true;
    }

    fn take(&mut self, turn: Turn) {
        match turn {
            Turn::Begin => {
                let commands = self.machine.start(self.shared.now());
                self.execute(commands);
            }
            Turn::Event(event) => self.handle(event),
            Turn::Show => self.publish(),
        }
    }

    fn handle(&mut self, event: Event) {
        let commands = self.machine.handle(event, self.shared.now());
        self.execute(commands);
    }

    fn execute(&mut self, commands: Vec<Command>) {
        self.wake_at = None;
        if !self.gone {
            self.publish();
        }
        for command in commands {
            match command {
                Command::Save(generation, leftovers) => self.save(generation, leftovers),
                Command::Start(job) => self.start_job(job),
                Command::Abort(subject) => {
                    if let Some(job) = self.jobs.get(&subject) {
                        job.cancel.cancel();
                    }
                }
                Command::Reply(token, reply) => {
                    if let Some(caller) = self.callers.remove(&token) {
                        let _ = caller.send(reply);
                    }
                }
                Command::WakeAt(at) => self.wake_at = Some(at),
                Command::Forget(leftovers) => self.forget(leftovers),
            }
        }
        if self.machine.record().answered {
            self.creating = None;
        }
    }

    fn save(&mut self, generation: u64, leftovers: Vec<Leftover>) {
        let record = self.machine.record();
        self.on_disk.saving = Some((generation, Arc::clone(record)));
        let own = self.own.clone();
        let id = record.id.clone();
        tracing::debug!(target: "berth::effect", save = "begin", pod = %id, generation);
        let shared = Arc::clone(&self.shared);
        let left = leftovers.clone();
        self.shared.records.save(&Save { record, leftovers: &leftovers }, move |result| {
            match &result {
                Ok(_) => {
                    tracing::debug!(target: "berth::effect", save = "end", pod = %id, generation);
                }
                Err(why) => {
                    tracing::warn!(target: "berth::effect", save = "end", pod = %id, generation, error = %why);
                }
            }
            let result = result.map(|rows| {
                shared.leftovers.add(rows.into_iter().map(Some).zip(left).collect());
            });
            let result = result.map_err(|why| Failure::new(why.kind(), why.to_string()));
            let _ = own.send(Message::Saved(Box::new((generation, result))));
        });
    }

    fn forget(&mut self, leftovers: Vec<Leftover>) {
        self.on_disk.forgetting = true;
        let id = self.machine.record().id.clone();
        let own = self.own.clone();
        tracing::debug!(target: "berth::effect", save = "begin", pod = %id, forget = true);
        let shared = Arc::clone(&self.shared);
        let left = leftovers.clone();
        self.shared.records.forget(&id.clone(), &leftovers, move |result| {
            let rows: Vec<_> = match result {
                Ok(rows) => {
                    tracing::debug!(target: "berth::effect", save = "end", pod = %id, forget = true);
                    rows.into_iter().map(Some).collect()
                }
                // A stale row stays until the disk takes writes again; the pod holds nothing, and a
                // restart before that forgets it again.
                Err(why) => {
                    tracing::warn!(target: "berth::effect", save = "end", pod = %id, forget = true, error = %why);
                    vec![None; left.len()]
                }
            };
            shared.leftovers.add(rows.into_iter().zip(left).collect());
            let _ = own.send(Message::Forgotten);
        });
    }

    fn start_job(&mut self, job: Job) {
        let (cancel, canceled) = effect::cancel();
        let progress = InProgress { since: self.shared.now(), job: job.clone(), cancel };
        self.jobs.insert(job.subject.clone(), progress);
        let (shared, record) = (&self.shared, self.machine.record());
        let context = Context::new(shared, record, self.own.clone(), canceled);
        let ending = Ending { own: self.own.clone(), job: Some(job.clone()) };
        tokio::spawn(async move {
            let outcome = effect::run(context, &job).await;
            ending.tell(outcome);
        });
    }

    fn publish(&mut self) {
        let view = picture::view(&self.machine, self.silent, self.view.as_deref());
        let view = Arc::new(view);
        let work = picture::work(&self.machine, self.jobs.values());
        self.view = Some(Arc::clone(&view));
        self.shared.registry.publish(view, work);
    }
}
