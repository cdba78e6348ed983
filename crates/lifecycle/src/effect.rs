//! Effects: each job of the loop, done for real. One file per holding.
//!
//! An acquisition adopts what an earlier try left; a release of something absent succeeds. Every
//! effect has deadlines of its own and says in one line when it begins and when it ends.

mod bundle;
mod cdi;
mod cgroup;
pub(crate) mod checkpoint;
mod exit;
mod files;
mod helper;
mod image;
mod limits;
mod namespaces;
mod network;
mod pause;
pub(crate) mod restore;
mod rootfs;
mod sandbox;
mod shim;
mod signal;
mod socket;
mod stdio;
mod task;
mod volumes;

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_cni::Network;
use berth_pod::holding::{ContainerHolding, PodHolding};
use berth_pod::job::{Job, Outcome, Subject, Verb};
use berth_pod::record::{ContainerRecord, Failure, PodRecord};
use berth_pod::{ContainerId, Kind};
use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::figures::End;
use crate::layout::Layout;
use crate::pod_task::Message;
use crate::settings::{Handler, Settings};
use crate::shared::Shared;

pub(crate) use cgroup::limit;
pub(crate) use files::drop_unnamed as drop_files;
pub(crate) use shim::{SHIMS, connection};

/// No step takes longer than this, whatever its own deadlines say.
pub(crate) const LONGEST: Duration = Duration::from_secs(180);

/// Cancels a job.
pub(crate) type Cancel = CancellationToken;

/// A switch, and what it switches off.
pub(crate) fn cancel() -> (Cancel, Cancel) {
    let cancel = CancellationToken::new();
    (cancel.clone(), cancel)
}

/// What an effect works with: the node, and the pod as it stood when the job was started.
pub(crate) struct Context {
    pub(crate) shared: Arc<Shared>,
    pub(crate) record: Arc<PodRecord>,
    pub(crate) queue: mpsc::UnboundedSender<Message>,
    pub(crate) canceled: Cancel,
    handler: Option<Arc<Handler>>,
}

/// Why an effect did not work.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It failed.
    Failed(Failure),
    /// It failed, with a text that begins with a word that callers know: nothing is put before it.
    Known(Failure),
    /// A process lives that cannot be killed.
    Living(Failure),
    /// It failed, and nothing that it was about is alive.
    Dead(Failure),
    /// It was aborted.
    Aborted,
}

pub(crate) type Result<T> = std::result::Result<T, Trouble>;

/// A failure of this kind with this text.
pub(crate) fn failed<T>(kind: Kind, text: impl Into<String>) -> Result<T> {
    Err(Trouble::Failed(Failure::new(kind, text)))
}

impl Context {
    /// What an effect on this pod works with.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        record: &Arc<PodRecord>,
        queue: mpsc::UnboundedSender<Message>,
        canceled: Cancel,
    ) -> Self {
        let handler = shared.handlers.of(record);
        Self { shared: Arc::clone(shared), record: Arc::clone(record), queue, canceled, handler }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    pub(crate) fn layout(&self) -> Layout<'_> {
        Layout(&self.shared.settings)
    }

    /// Is this pod of an earlier boot: then nothing of it under /run is left.
    pub(crate) fn rebooted(&self) -> bool {
        self.record.boot_id != self.shared.boot_id
    }

    /// The pod's handler, as it was when the pod was begun.
    pub(crate) fn handler(&self) -> Result<&Handler> {
        match &self.handler {
            Some(handler) => Ok(handler),
            None => {
                let name = &self.record.handler;
                let text = format!(
                    "the runtime handler {name:?} is no longer configured, and what the pod was begun with is lost: configure it again"
                );
                failed(Kind::Unavailable, text)
            }
        }
    }

    /// The network that the pod is in: its handler's own, or the node's.
    pub(crate) fn network(&self) -> Arc<Network> {
        let own = self.handler.as_ref().and_then(|handler| handler.cni_conf_dir.as_ref());
        own.map_or_else(|| Arc::clone(&self.shared.network), |dir| self.shared.network_of(dir))
    }

    pub(crate) fn container(&self, id: &ContainerId) -> Result<&ContainerRecord> {
        match self.record.containers.get(id) {
            Some(c) => Ok(c),
            None => failed(Kind::Broken, format!("the record has no container {id}")),
        }
    }

    /// Waits for this, unless the job is aborted: then it is dropped where it stands.
    pub(crate) async fn abortable<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            () = self.canceled.cancelled() => Err(Trouble::Aborted),
            done = work => done,
        }
    }
}

/// The cgroup of a container whose shim is not our own.
pub(crate) fn foreign_cgroup(context: &Context, id: &ContainerId) -> Option<berth_cgroup::Cgroup> {
    let foreign = shim::foreign(context);
    foreign.then(|| context.shared.cgroups.at(&cgroup::path_of(context, id)).ok()).flatten()
}

tokio::task_local! {
    /// What the job at hand has threads at work on.
    static AT_WORK: TaskTracker;
}

/// Runs kernel and disk work of our own on a thread that may wait. It is never abandoned: what it
/// did is known when this returns, and the job does not end before it, not even by being aborted.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let at_work = AT_WORK.try_with(TaskTracker::clone).unwrap_or_default();
    match at_work.spawn_blocking(work).await {
        Ok(done) => done,
        Err(why) => failed(Kind::Broken, format!("a worker thread ended: {why}")),
    }
}

/// Waits for this, and for every thread that it set to work: one that is left behind by what is
/// dropped half-way would make what the next job has just removed.
async fn wholly<T>(work: impl Future<Output = T>) -> T {
    let at_work = TaskTracker::new();
    let done = AT_WORK.scope(at_work.clone(), work).await;
    at_work.close();
    if tokio::time::timeout(LONGEST, at_work.wait()).await.is_err() {
        tracing::error!("a thread of a job that was given up is at work still: the disk may hang");
    }
    done
}

/// Does a job.
pub(crate) async fn run(context: Context, job: &Job) -> Outcome {
    let pod = context.record.id.clone();
    let container = job.subject.container().map(ToString::to_string).unwrap_or_default();
    let (step, begin) = (job.to_string(), Instant::now());
    tracing::debug!(target: "berth::effect", effect = "begin", step, %pod, container);
    let mut work = Box::pin(AssertUnwindSafe(act(&context, job)).catch_unwind());
    let done = wholly(async {
        match job.verb {
            Verb::Watch => Ok(work.as_mut().await),
            // Boxed: a watch would keep room for the timer that it has not.
            _ => Box::pin(tokio::time::timeout(LONGEST, work.as_mut())).await,
        }
    });
    let outcome = match done.await {
        Ok(Ok(Ok(outcome))) => outcome,
        Ok(Ok(Err(Trouble::Failed(why)))) => Outcome::Failed(named(&step, why)),
        Ok(Ok(Err(Trouble::Known(why)))) => Outcome::Failed(why),
        Ok(Ok(Err(Trouble::Living(why)))) => Outcome::Living(named(&step, why)),
        Ok(Ok(Err(Trouble::Dead(why)))) => Outcome::Dead(named(&step, why)),
        Ok(Ok(Err(Trouble::Aborted))) => Outcome::Aborted,
        Ok(Err(_)) => {
            Outcome::Failed(Failure::new(Kind::Broken, format!("{step}: a bug: it panicked")))
        }
        Err(_) => {
            let text = format!("{step} did not end within {} s", LONGEST.as_secs());
            Outcome::Failed(Failure::new(Kind::TimedOut, text))
        }
    };
    let took = begin.elapsed();
    let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let end = match &outcome {
        Outcome::Failed(why) | Outcome::Living(why) | Outcome::Dead(why) => {
            let error = &why.message;
            tracing::warn!(target: "berth::effect", effect = "end", step, %pod, container, ms, error);
            End::Failed
        }
        Outcome::Aborted => {
            tracing::debug!(target: "berth::effect", effect = "end", step, %pod, container, ms, aborted = true);
            End::Aborted
        }
        _ => {
            tracing::debug!(target: "berth::effect", effect = "end", step, %pod, container, ms);
            End::Done
        }
    };
    context.shared.figures.count(&step, end, took);
    outcome
}

/// A failure says at which stage it was.
fn named(step: &str, why: Failure) -> Failure {
    Failure { message: format!("{step}: {}", why.message), ..why }
}

/// Each arm is boxed: a watch lasts as long as its pod, and must not be as large as the largest.
async fn act(context: &Context, job: &Job) -> Result<Outcome> {
    match (&job.subject, job.verb) {
        (Subject::Pod(h), Verb::Acquire) => Box::pin(acquire_pod(context, *h)).await,
        (Subject::Pod(h), _) => Box::pin(release_pod(context, *h)).await,
        (Subject::Container(id, h), Verb::Acquire) => {
            Box::pin(acquire_container(context, id, *h)).await
        }
        (Subject::Container(id, h), _) => Box::pin(release_container(context, id, *h)).await,
        (Subject::Sandbox, _) => context.abortable(Box::pin(sandbox::watch(context))).await,
        (Subject::Exit(id), _) => context.abortable(Box::pin(exit::watch(context, id))).await,
        (Subject::Signal(id), Verb::Kill { tries }) => {
            Box::pin(signal::kill(context, id, tries)).await
        }
        (Subject::Signal(id), _) => {
            Box::pin(context.abortable(signal::terminate(context, id))).await
        }
        (Subject::Update(id), _) => Box::pin(limits::update(context, id)).await,
    }
}

async fn acquire_pod(context: &Context, holding: PodHolding) -> Result<Outcome> {
    let fact = match holding {
        PodHolding::Cgroup => cgroup::acquire(context).await?,
        PodHolding::Namespaces => namespaces::acquire(context).await?,
        PodHolding::Files => files::acquire(context).await?,
        PodHolding::Network => network::acquire(context).await?,
        PodHolding::Shim => context.abortable(shim::acquire(context)).await?,
        PodHolding::Sandbox => context.abortable(sandbox::acquire(context)).await?,
    };
    Ok(Outcome::Pod(fact))
}

async fn release_pod(context: &Context, holding: PodHolding) -> Result<Outcome> {
    match holding {
        PodHolding::Cgroup => cgroup::release(context).await?,
        PodHolding::Namespaces => namespaces::release(context).await?,
        PodHolding::Files => files::release(context).await?,
        PodHolding::Network => network::release(context).await?,
        PodHolding::Shim => shim::release(context).await?,
        PodHolding::Sandbox => sandbox::release(context).await?,
    }
    Ok(Outcome::Done)
}

async fn acquire_container(
    context: &Context,
    id: &ContainerId,
    holding: ContainerHolding,
) -> Result<Outcome> {
    let fact = match holding {
        ContainerHolding::Image => image::acquire(context, id).await?,
        ContainerHolding::Rootfs => rootfs::acquire(context, id).await?,
        ContainerHolding::Bundle => bundle::acquire(context, id).await?,
        ContainerHolding::Cgroup => cgroup::acquire_container(context, id)?,
        ContainerHolding::Task => context.abortable(task::acquire(context, id)).await?,
    };
    Ok(Outcome::Container(fact))
}

async fn release_container(
    context: &Context,
    id: &ContainerId,
    holding: ContainerHolding,
) -> Result<Outcome> {
    match holding {
        ContainerHolding::Image => image::release(context, id).await?,
        ContainerHolding::Rootfs => rootfs::release(context, id).await?,
        ContainerHolding::Bundle => bundle::release(context, id).await?,
        ContainerHolding::Cgroup => cgroup::release_container(context, id).await?,
        ContainerHolding::Task => task::release(context, id).await?,
    }
    Ok(Outcome::Done)
}

/// Releases a leftover: the same effects, over the record as it stood.
pub(crate) async fn release_leftover(
    context: &Context,
    container: Option<&ContainerId>,
    holding: &str,
) -> Result<()> {
    use berth_pod::holding::Holding as _;
    match container {
        None => match PodHolding::ALL.iter().find(|h| h.name() == holding) {
            Some(h) => release_pod(context, *h).await.map(drop),
            None => Ok(()),
        },
        Some(id) => match ContainerHolding::ALL.iter().find(|h| h.name() == holding) {
            Some(h) => release_container(context, id, *h).await.map(drop),
            None => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_dropped_half_way_does_not_end_before_its_thread() {
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let made = Arc::clone(&done);
        let work = blocking(move || {
            let _ = begun.send(());
            let _ = wait.recv();
            made.store(true, std::sync::atomic::Ordering::SeqCst);
            Ok(())
        });
        let canceled = CancellationToken::new();
        let told = canceled.clone();
        let job = tokio::spawn(wholly(async move {
            tokio::select! {
                done = work => done,
                () = told.cancelled() => Err(Trouble::Aborted),
            }
        }));
        has_begun.await.unwrap();
        canceled.cancel();
        // Often enough for the work to be dropped: its job waits.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!job.is_finished());
        go.send(()).unwrap();
        assert!(matches!(job.await.unwrap(), Err(Trouble::Aborted)));
        assert!(done.load(std::sync::atomic::Ordering::SeqCst));
    }

    fn size<A, F: Future>(_: impl FnOnce(A) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn what_waits_as_long_as_a_pod_lives_is_small() {
        type Ask = (&'static Context, &'static ContainerId);
        let job = size(|(context, job): (Context, &'static Job)| run(context, job));
        let sandbox = size(|context: &'static Context| sandbox::watch(context));
        let container = size(|(context, id): Ask| exit::watch(context, id));
        // 624 with its task, 1992 and 2600 bytes before the requests and the timers were left out.
        assert!(job <= 560 && sandbox <= 320 && container <= 512, "{job} {sandbox} {container}");
    }
}
