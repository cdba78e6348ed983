//! Layers under way: at most one job per chain id, joined by every pull that needs it.
//!
//! A job lives as long as somebody waits for it. When the last one lets go, it is aborted, its
//! staging directory goes, and so does its layer if no image lists it yet.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::apply::Applied;
use crate::database::LayerRow;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layer::{self, Expected};
use crate::measure;
use crate::settle;
use crate::shelf::{Shelf, Staging, lock};

/// A layer in its place on disk, listed or not yet.
pub(crate) struct Landed {
    pub(crate) row: LayerRow,
    listed: AtomicBool,
    shelf: Weak<Shelf>,
}

impl Landed {
    pub(crate) fn is_listed(&self) -> bool {
        self.listed.load(Ordering::Acquire)
    }

    pub(crate) fn set_listed(&self) {
        self.listed.store(true, Ordering::Release);
    }
}

impl Drop for Landed {
    fn drop(&mut self) {
        if !self.is_listed()
            && let Some(shelf) = self.shelf.upgrade()
        {
            shelf.dispose(&shelf.paths.layer(self.row.number));
        }
    }
}

type Outcome = Option<Result<Arc<Landed>, Arc<Error>>>;

/// One layer on its way, or there.
pub(crate) struct Job {
    diff_id: Digest,
    outcome: watch::Receiver<Outcome>,
    below: Option<Arc<Job>>,
    abort: Option<AbortHandle>,
    waiting: AtomicUsize,
}

/// A layer that is being fetched or unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Its diff id.
    pub layer: Digest,
    /// How many pulls and imports wait for it.
    pub waiting: usize,
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Some(abort) = &self.abort {
            abort.abort();
        }
    }
}

/// Which layer it is, and on what it lies.
pub(crate) struct Spec {
    pub(crate) expected: Expected,
    pub(crate) chain: Digest,
    pub(crate) below: Option<Arc<Job>>,
}

/// An unpacked layer that has not got its place yet.
pub(crate) type Unpacked = (Staging, Applied);

impl Job {
    /// The layer, if it is there already.
    pub(crate) fn landed(&self) -> Option<Arc<Landed>> {
        self.outcome.borrow().as_ref()?.as_ref().ok().cloned()
    }

    /// What is shown of it while it is under way.
    pub(crate) fn transfer(&self) -> Option<Transfer> {
        let waiting = self.waiting.load(Ordering::Relaxed);
        let running = self.outcome.borrow().is_none();
        running.then(|| Transfer { layer: self.diff_id.clone(), waiting })
    }

    fn failed(&self) -> bool {
        matches!(*self.outcome.borrow(), Some(Err(_)))
    }

    /// Waits for the layer.
    pub(crate) async fn wait(&self) -> Result<Arc<Landed>> {
        let _waiting = Waiting::new(&self.waiting);
        let mut outcome = self.outcome.clone();
        let done = outcome.wait_for(Option::is_some).await;
        let layer = self.diff_id.clone();
        match done.ok().and_then(|outcome| outcome.clone()) {
            Some(Ok(landed)) => Ok(landed),
            Some(Err(source)) => Err(Error::Layer { layer, source }),
            None => Err(Error::Lost { what: "the unpacking of a layer" }),
        }
    }

    /// This job and those of the layers below, from the top down.
    pub(crate) fn stack(&self) -> Vec<&Job> {
        let mut stack = vec![self];
        let mut below = self.below.as_deref();
        while let Some(job) = below {
            stack.push(job);
            below = job.below.as_deref();
        }
        stack
    }

    /// Waits for the layer and all below it, from the bottom up.
    pub(crate) async fn wait_for_stack(&self) -> Result<Vec<Arc<Landed>>> {
        let mut landed = Vec::new();
        for job in self.stack().into_iter().rev() {
            landed.push(job.wait().await?);
        }
        Ok(landed)
    }

    /// Joins the job of this layer, finds the layer present, or starts `fetch`. Says whether it was
    /// started: whoever joined may want to try for itself if the other one fails.
    pub(crate) fn obtain<F>(
        shelf: &Arc<Shelf>,
        spec: Spec,
        fetch: impl FnOnce(Expected) -> F,
    ) -> (Arc<Self>, bool)
    where
        F: Future<Output = Result<Unpacked>> + Send + 'static,
    {
        let mut jobs = lock(&shelf.jobs);
        jobs.retain(|_, job| job.strong_count() > 0);
        if let Some(job) = jobs.get(&spec.chain).and_then(Weak::upgrade)
            && !job.failed()
        {
            return (job, false);
        }
        let diff_id = spec.expected.diff_id.clone();
        let present = {
            let state = shelf.state();
            // For the lowest layer both ids are the same, so the key alone does not tell.
            let alone = state.layers.get(&diff_id).filter(|row| !row.leans);
            alone.or_else(|| state.layers.get(&spec.chain)).cloned()
        };
        let (sender, outcome) = watch::channel(None);
        let abort = match present {
            Some(row) => {
                let listed = AtomicBool::new(true);
                let landed = Landed { row, listed, shelf: Arc::downgrade(shelf) };
                sender.send_replace(Some(Ok(Arc::new(landed))));
                None
            }
            None => {
                let work = fetch(spec.expected.clone());
                let (shelf, chain) = (Arc::clone(shelf), spec.chain.clone());
                let below = spec.below.clone();
                let task = tokio::spawn(async move {
                    let landed = run(&shelf, diff_id, (chain, below), work).await;
                    sender.send_replace(Some(landed.map_err(Arc::new)));
                });
                Some(task.abort_handle())
            }
        };
        let started = abort.is_some();
        let diff_id = spec.expected.diff_id;
        let waiting = AtomicUsize::new(0);
        let job = Arc::new(Self { diff_id, outcome, below: spec.below, abort, waiting });
        jobs.insert(spec.chain, Arc::downgrade(&job));
        (job, started)
    }
}

async fn run(
    shelf: &Arc<Shelf>,
    diff_id: Digest,
    (chain, below): (Digest, Option<Arc<Job>>),
    work: impl Future<Output = Result<Unpacked>>,
) -> Result<Arc<Landed>> {
    let (staging, applied) = work.await?;
    let leans = !applied.stands_alone();
    let below = match (leans, below) {
        (true, Some(below)) => below.wait_for_stack().await?,
        _ => Vec::new(),
    };
    let key = if leans { chain } else { diff_id };
    let shelf = Arc::clone(shelf);
    let land = move || -> Result<Arc<Landed>> {
        if leans {
            let below: Vec<_> =
                below.iter().map(|landed| shelf.paths.layer(landed.row.number)).collect();
            settle::settle(&staging.path, &applied, &below)?;
        }
        let measured = measure::measure(&staging.path)
            .map_err(|e| Error::file("measure", &staging.path, e))?;
        let number = shelf.new_number();
        staging.land(number)?;
        let row = LayerRow { number, key, measured, root: applied.root, leans };
        let (listed, shelf) = (AtomicBool::new(false), Arc::downgrade(&shelf));
        Ok(Arc::new(Landed { row, listed, shelf }))
    };
    blocking(land).await
}

/// Unpacks a stream into a staging directory on a thread that may block.
pub(crate) async fn unpack(
    shelf: Arc<Shelf>,
    expected: Expected,
    source: impl std::io::Read + Send + 'static,
) -> Result<Unpacked> {
    blocking(move || {
        let staging = shelf.stage()?;
        let applied = layer::unpack(source, &expected, &staging.path)?;
        Ok((staging, applied))
    })
    .await
}

/// Runs something that may block on our own disk.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(_) => Err(Error::Lost { what: "a thread of the image store" }),
    }
}
