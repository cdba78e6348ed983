//! The task of one pod: it owns the loop's state and never awaits an effect.
//!
//! ```text
//!   RPC handlers ──▶ queue ──▶ Machine::handle ──▶ commands
//!   jobs, saves  ──▶              │                  ├─ spawn a job, abort one
//!   timer        ──▶              │                  ├─ hand a save to the records' writer
//!                                 └─ publish         └─ reply
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use berth_pod::job::{Job, Outcome, Subject};
use berth_pod::machine::{Command, Event, Machine, Nanos, Reply, Request, Token};
use berth_pod::record::{Failure, Leftover};
use berth_records::Save;
use tokio::sync::{mpsc, oneshot};

use crate::effect::{self, Context};
use crate::picture;
use crate::shared::Shared;
use crate::view::PodView;

/// What a pod's task is told.
pub(crate) enum Message {
    /// A caller asks.
    Request(Token, Request, oneshot::Sender<Result<Reply, Failure>>),
    /// A caller went away.
    CallerGone(Token),
    /// A job ended.
    Ended(Job, Outcome),
    /// A save ended.
    Saved(u64, Result<(), String>),
    /// The record is deleted, or cannot be.
    Forgotten,
    /// The shim does not answer, or answers again.
    Silent(bool),
}

/// A job in progress.
pub(crate) struct InProgress {
    pub(crate) since: Nanos,
    pub(crate) job: Job,
    cancel: effect::Cancel,
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
    /// The last picture.
    view: Option<Arc<PodView>>,
    gone: bool,
    /// Keeps checkpoints away while the pod is being created.
    creating: Option<berth_records::Creating>,
}

/// Starts the task of a pod.
pub(crate) fn start(
    shared: &Arc<Shared>,
    machine: Machine,
    (own, queue): (mpsc::UnboundedSender<Message>, mpsc::UnboundedReceiver<Message>),
) {
    let creating = (!machine.record().answered).then(|| shared.records.creating());
    let task = PodTask {
        shared: Arc::clone(shared),
        machine,
        queue,
        own,
        callers: HashMap::new(),
        jobs: HashMap::new(),
        wake_at: None,
        silent: false,
        view: None,
        gone: false,
        creating,
    };
    tokio::spawn(task.run());
}

impl PodTask {
    async fn run(mut self) {
        let commands = self.machine.start(self.shared.now());
        self.execute(commands);
        while !self.gone {
            let message = match self.wake_at.map(|at| self.shared.until(at)) {
                None => self.queue.recv().await,
                Some(wait) => match tokio::time::timeout(wait, self.queue.recv()).await {
                    Ok(message) => message,
                    Err(_) => {
                        self.handle(Event::Tick);
                        continue;
                    }
                },
            };
            let Some(message) = message else { break };
            self.take(message);
        }
    }

    fn take(&mut self, message: Message) {
        let event = match message {
            Message::Request(token, request, reply) => {
                self.callers.insert(token, reply);
                Event::Request(token, request)
            }
            Message::CallerGone(token) => {
                self.callers.remove(&token);
                Event::CallerGone(token)
            }
            Message::Ended(job, outcome) => {
                self.jobs.remove(&job.subject);
                Event::Ended(job, outcome)
            }
            Message::Saved(generation, result) => Event::Saved(generation, result),
            Message::Forgotten => Event::Forgotten,
            Message::Silent(silent) => {
                self.silent = silent;
                self.publish();
                return;
            }
        };
        if matches!(event, Event::Forgotten) {
            // Gone from the lists before anybody is told that it is gone.
            let record = self.machine.record();
            self.shared.registry.remove(&record.id, &record.spec.spec.name);
            self.gone = true;
        }
        self.handle(event);
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

    fn save(&self, generation: u64, leftovers: Vec<Leftover>) {
        let record = self.machine.record();
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
            let _ = own.send(Message::Saved(generation, result.map_err(|why| why.to_string())));
        });
    }

    fn forget(&self, leftovers: Vec<Leftover>) {
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
        let context = Context {
            shared: Arc::clone(&self.shared),
            record: Arc::clone(self.machine.record()),
            queue: self.own.clone(),
            canceled,
        };
        let own = self.own.clone();
        tokio::spawn(async move {
            let outcome = effect::run(context, &job).await;
            let _ = own.send(Message::Ended(job, outcome));
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
