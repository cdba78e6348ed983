//! What happens to pods and containers, told to whoever listens.
//!
//! An event is the difference between two saves of a pod's record, and is told when the later one
//! has worked, before anybody is answered by it: in order for each pod, nothing left out. Lists show
//! a change no later than its event comes, so who listens first and then lists misses nothing.
//! Without listeners nothing is compared.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use berth_pod::ContainerId;
use berth_pod::holding::PodHolding;
use berth_pod::record::{ContainerRecord, PodRecord, PodWish, Status};
use tokio::sync::mpsc;

use crate::view::PodView;

/// So many events wait for a listener that is slow: then it is let go, and may list and begin anew.
const WAITING: usize = 1024;

/// What has happened to a pod's sandbox or to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Its creation is answered.
    Created,
    /// It was started; a sandbox is, when it is created.
    Started,
    /// It has ended: of a container, all its processes; of a sandbox, whatever ends when it stops.
    Stopped,
    /// It is gone.
    Deleted,
}

/// One event.
#[derive(Clone, Debug)]
pub struct Happening {
    /// What has happened.
    pub change: Change,
    /// To which container; none: to the sandbox.
    pub container: Option<ContainerId>,
    /// When it is told, ns since the epoch.
    pub at: i64,
    /// The pod as lists show it now: this change is in it, and perhaps later ones.
    pub pod: Arc<PodView>,
}

/// Events as they happen, from [`crate::Node::listen`] on.
#[derive(Debug)]
pub struct Listening {
    queue: mpsc::Receiver<Happening>,
    late: Arc<AtomicBool>,
}

/// Why there are no more events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// More had happened than was taken: some events are lost.
    Late,
    /// The daemon ends.
    End,
}

impl Listening {
    /// The next event.
    ///
    /// # Errors
    /// Why there is none any more.
    pub async fn next(&mut self) -> Result<Happening, Silence> {
        let late = || match self.late.load(Ordering::Acquire) {
            true => Silence::Late,
            false => Silence::End,
        };
        self.queue.recv().await.ok_or_else(late)
    }
}

struct Listener {
    queue: mpsc::Sender<Happening>,
    late: Arc<AtomicBool>,
}

impl Listener {
    /// False when it takes no more.
    fn tell(&self, happening: &Happening) -> bool {
        match self.queue.try_send(happening.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.late.store(true, Ordering::Release);
                false
            }
        }
    }
}

/// Who listens; none once the daemon ends.
#[derive(Default)]
struct Listeners {
    all: Vec<Listener>,
    over: bool,
}

/// Where events are told.
#[derive(Default)]
pub(crate) struct Feed {
    listeners: Mutex<Listeners>,
    /// How many there are, to be looked at without the lock.
    count: AtomicUsize,
}

impl Feed {
    fn listeners(&self) -> std::sync::MutexGuard<'_, Listeners> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn listen(&self) -> Listening {
        let (sender, queue) = mpsc::channel(WAITING);
        let late = Arc::new(AtomicBool::new(false));
        let mut listeners = self.listeners();
        if !listeners.over {
            listeners.all.push(Listener { queue: sender, late: Arc::clone(&late) });
            self.count.store(listeners.all.len(), Ordering::Release);
        }
        Listening { queue, late }
    }

    /// Ends every listening, now and later.
    pub(crate) fn end(&self) {
        let mut listeners = self.listeners();
        *listeners = Listeners { all: Vec::new(), over: true };
        self.count.store(0, Ordering::Release);
    }

    /// Tells how a pod's record has changed; `now` is none once the pod is gone. Nobody is waited for.
    pub(crate) fn tell(
        &self,
        before: Option<&PodRecord>,
        now: Option<&PodRecord>,
        pod: Option<&Arc<PodView>>,
    ) {
        let Some(pod) = pod.filter(|_| self.count.load(Ordering::Acquire) > 0) else { return };
        let changes = between(before, now);
        if changes.is_empty() {
            return;
        }
        let mut listeners = self.listeners();
        for (change, container) in changes {
            let happening = Happening { change, container, at: wall(), pod: Arc::clone(pod) };
            listeners.all.retain(|listener| listener.tell(&happening));
        }
        self.count.store(listeners.all.len(), Ordering::Release);
    }
}

/// The node's clock: listeners compare with it.
fn wall() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

pub(crate) type Changes = Vec<(Change, Option<ContainerId>)>;

/// What has happened between two saves of a pod.
pub(crate) fn between(before: Option<&PodRecord>, now: Option<&PodRecord>) -> Changes {
    let mut changes = Changes::new();
    let (was, is) = (Stage::of_pod(before), Stage::of_pod(now));
    let (begins, ends): (Vec<_>, Vec<_>) =
        was.to(is).partition(|change| matches!(change, Change::Created | Change::Started));
    changes.extend(begins.into_iter().map(|change| (change, None)));
    let of = |record: Option<&PodRecord>, id: &ContainerId| {
        Stage::of_container(record.and_then(|record| record.containers.get(id)).map(|c| &**c))
    };
    let gone = before.iter().flat_map(|record| record.containers.keys());
    let gone = gone.filter(|id| now.is_none_or(|now| !now.containers.contains_key(*id)));
    for id in now.iter().flat_map(|record| record.containers.keys()).chain(gone) {
        let same =
            |(a, b): (&PodRecord, &PodRecord)| match (a.containers.get(id), b.containers.get(id)) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                _ => false,
            };
        if before.zip(now).is_some_and(same) {
            continue;
        }
        let steps = of(before, id).to(of(now, id));
        changes.extend(steps.map(|change| (change, Some(id.clone()))));
    }
    changes.extend(ends.into_iter().map(|change| (change, None)));
    changes
}

/// How far something has come. It only goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Unknown,
    Created,
    Started,
    Stopped { started: bool },
}

impl Stage {
    fn of_container(record: Option<&ContainerRecord>) -> Self {
        match record {
            Some(c) if !c.answered => Self::Unknown,
            Some(c) if c.exit.is_some() => Self::Stopped { started: c.started_at.is_some() },
            Some(c) if c.started_at.is_some() => Self::Started,
            Some(_) => Self::Created,
            None => Self::Unknown,
        }
    }

    fn of_pod(record: Option<&PodRecord>) -> Self {
        let over = |r: &PodRecord| {
            let stopped = r.wish >= PodWish::Stop;
            r.lost.is_some() || stopped && r.status(PodHolding::Sandbox) == Status::Absent
        };
        match record {
            Some(record) if !record.answered => Self::Unknown,
            Some(record) if over(record) => Self::Stopped { started: true },
            Some(_) => Self::Started,
            None => Self::Unknown,
        }
    }

    /// What happens on the way; to be unknown after it was known is to be gone.
    fn to(self, next: Self) -> impl Iterator<Item = Change> {
        let gone = next == Self::Unknown && self != Self::Unknown;
        let started = matches!(next, Self::Started | Self::Stopped { started: true });
        let steps = [
            (Change::Created, self == Self::Unknown && !gone && next != Self::Unknown),
            (Change::Started, self < Self::Started && started),
            (
                Change::Stopped,
                matches!(next, Self::Stopped { .. }) && !matches!(self, Self::Stopped { .. })
                    || gone && self == Self::Started,
            ),
            (Change::Deleted, gone),
        ];
        steps.into_iter().filter(|(_, happens)| *happens).map(|(change, _)| change)
    }
}

#[cfg(test)]
mod tests;
