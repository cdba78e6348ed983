//! The size of writable layers: measured in the background, never on the way of a call.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::measure::{self, Usage};
use crate::shelf::lock;

/// A figure older than this is measured again when it is asked for.
const FRESH: Duration = Duration::from_secs(10);

/// The figures, and what is still to be measured.
#[derive(Default)]
pub(crate) struct Usages(Mutex<Figures>);

#[derive(Default)]
struct Figures {
    known: HashMap<String, Figure>,
    queue: VecDeque<(String, PathBuf)>,
    /// Whether the one thread that measures is there.
    measuring: bool,
}

#[derive(Clone, Copy, Default)]
struct Figure {
    usage: Option<Usage>,
    measured: Option<Instant>,
    queued: bool,
}

impl Usages {
    /// The last figure; a new one is ordered if it is old.
    pub(crate) fn get(self: &Arc<Self>, key: &str, path: PathBuf) -> Option<Usage> {
        let mut figures = lock(&self.0);
        let figure = figures.known.entry(key.to_owned()).or_default();
        let usage = figure.usage;
        let fresh = figure.measured.is_some_and(|at| at.elapsed() < FRESH);
        if fresh || figure.queued {
            return usage;
        }
        figure.queued = true;
        figures.queue.push_back((key.to_owned(), path));
        if !figures.measuring {
            let usages = Arc::clone(self);
            let work = move || usages.measure_queue();
            let started = std::thread::Builder::new().name("usage".to_owned()).spawn(work);
            figures.measuring = started.is_ok();
        }
        usage
    }

    /// Works the queue off and ends: an idle node has no thread for this.
    fn measure_queue(&self) {
        loop {
            let next = {
                let mut figures = lock(&self.0);
                let next = figures.queue.pop_front();
                figures.measuring = next.is_some();
                next
            };
            let Some((key, path)) = next else { return };
            let usage = measure::measure(&path).ok().map(|measured| measured.usage);
            let mut figures = lock(&self.0);
            // A key that was forgotten meanwhile stays forgotten.
            if let Some(figure) = figures.known.get_mut(&key) {
                let usage = usage.or(figure.usage);
                *figure = Figure { usage, measured: Some(Instant::now()), queued: false };
            }
        }
    }

    pub(crate) fn forget(&self, key: &str) {
        lock(&self.0).known.remove(key);
    }

    pub(crate) fn sum(&self) -> Usage {
        let mut sum = Usage::default();
        for usage in lock(&self.0).known.values().filter_map(|figure| figure.usage) {
            sum.bytes += usage.bytes;
            sum.inodes += usage.inodes;
        }
        sum
    }
}
