//! The daemon in the data path, where a shim by others leaves it no choice: such a shim writes a
//! container's output to fifos, and the daemon carries it into the CRI log.
//!
//! ```text
//!   container ─▶ shim ─▶ io.out, io.err ─▶ thread of the container ─▶ CRI log
//! ```
//!
//! While no daemon runs, a process of the helper holds the fifos, and reads nothing.
//!
//! Each container has a thread of its own, which sleeps in poll(2) while nothing is said: a log on
//! a slow disk makes nobody wait but its own container. The thread takes out of a fifo only what it
//! has written: what a daemon that is killed has not carried is there for the next one.

mod pump;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_log::{Followers, LogFile, Stream};
use berth_pod::{ContainerId, Kind};
use berth_sys::pipe::{FifoEnd, make_fifo, open_fifo};
use tokio::sync::oneshot;

use crate::command::not_running;
use crate::effect::{Result, Trouble, blocking, failed};
use crate::layout::text;
use pump::{Order, Orders, Source};

/// How long a log on a slow disk may take to be opened again.
const REOPEN: Duration = Duration::from_secs(10);

/// How long the last output is waited for when somebody else holds the pipe.
const DRAIN: Duration = Duration::from_secs(2);

/// The most that a fifo holds, however large its ends have made it (the default of
/// /proc/sys/fs/pipe-max-size).
const FIFO: usize = 1 << 20;

/// What of a container's streams is to be carried.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The bundle: the fifos are in it.
    pub(crate) bundle: PathBuf,
    /// The CRI log; without one, the output is for whoever attaches.
    pub(crate) log: Option<PathBuf>,
    /// A terminal has one output.
    pub(crate) terminal: bool,
    /// The container has an input.
    pub(crate) stdin: bool,
}

/// The paths that a shim is given; "" is nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Paths {
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Wanted {
    fn fifo(&self, name: &str) -> PathBuf {
        self.bundle.join(name)
    }

    fn outputs(&self) -> Vec<(Stream, PathBuf)> {
        let mut outputs = vec![(Stream::Stdout, self.fifo("io.out"))];
        if !self.terminal {
            outputs.push((Stream::Stderr, self.fifo("io.err")));
        }
        outputs
    }

    /// What the shim is told.
    pub(crate) fn paths(&self) -> Paths {
        let mut paths = Paths::default();
        if self.stdin {
            paths.stdin = text(&self.fifo("io.in"));
        }
        for (stream, path) in self.outputs() {
            match stream {
                Stream::Stdout => paths.stdout = text(&path),
                Stream::Stderr => paths.stderr = text(&path),
            }
        }
        paths
    }

    /// The fifos of the outputs.
    pub(crate) fn fifos(&self) -> Vec<PathBuf> {
        self.outputs().into_iter().map(|(_, path)| path).collect()
    }

    /// Nobody writes to the fifos any more, and nobody is to read them: what is in them goes, and
    /// who holds them sees that.
    pub(crate) fn let_go(&self) {
        for path in self.fifos() {
            let Ok(both) = open_fifo(&path, FifoEnd::Both) else { continue };
            let mut space = [0; 4096];
            // Somebody may go on writing: no more is read than a fifo can have held at the beginning.
            let mut held = FIFO;
            while held > 0 {
                match rustix::io::read(&both, &mut space) {
                    Ok(count) if count > 0 => held = held.saturating_sub(count),
                    _ => break,
                }
            }
        }
    }

    fn open(&self) -> Result<Opened> {
        let fifo = |path: &Path, end| {
            match make_fifo(path, 0o600) {
                Err(e) if e.kind() != berth_sys::Kind::Exists => return Err(e),
                _ => {}
            }
            open_fifo(path, end)
        };
        let (mut sources, mut followers) = (Vec::new(), Vec::new());
        for (stream, path) in self.outputs() {
            let source = Source::new(stream, fifo(&path, FifoEnd::Read)?);
            followers.push(source.followers());
            sources.push(source);
        }
        // Held, so that a shim that holds only its own end sees no end of file before there is one.
        let stdin = self.stdin.then(|| fifo(&self.fifo("io.in"), FifoEnd::Both)).transpose()?;
        Ok(Opened { sources, followers, stdin })
    }
}

/// The daemon's ends of a container's fifos.
struct Opened {
    sources: Vec<Source>,
    followers: Vec<Arc<Followers>>,
    stdin: Option<OwnedFd>,
}

/// The containers whose output is carried now.
#[derive(Debug, Default)]
pub(crate) struct Carriers(Mutex<HashMap<ContainerId, Arc<Carrier>>>);

#[derive(Debug)]
struct Carrier {
    wanted: Wanted,
    /// Opened, and not read yet.
    sources: Mutex<Vec<Source>>,
    orders: Orders,
    /// Who follows stdout, and stderr.
    followers: Vec<Arc<Followers>>,
    /// Held open; none once it has been closed for good.
    stdin: Mutex<Option<OwnedFd>>,
}

/// Sources that are to be carried. Those that do not come to be, because the log cannot be opened or
/// nobody waits for that any more, are there for the next try.
struct Taken {
    carrier: Arc<Carrier>,
    sources: Vec<Source>,
}

impl From<Arc<Carrier>> for Taken {
    fn from(carrier: Arc<Carrier>) -> Self {
        let sources = std::mem::take(&mut *lock(&carrier.sources));
        Self { carrier, sources }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        lock(&self.carrier.sources).append(&mut self.sources);
    }
}

impl Carriers {
    fn all(&self) -> MutexGuard<'_, HashMap<ContainerId, Arc<Carrier>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, id: &ContainerId) -> Option<Arc<Carrier>> {
        self.all().get(id).cloned()
    }

    /// Makes the fifos and opens the daemon's ends: a shim waits for that.
    pub(crate) async fn open(&self, id: &ContainerId, wanted: Wanted) -> Result<Paths> {
        let paths = wanted.paths();
        if self.of(id).is_none() {
            let opened = {
                let wanted = wanted.clone();
                blocking(move || wanted.open()).await?
            };
            let carrier = Carrier {
                wanted,
                sources: Mutex::new(opened.sources),
                orders: Orders::new()?,
                followers: opened.followers,
                stdin: Mutex::new(opened.stdin),
            };
            self.all().insert(id.clone(), Arc::new(carrier));
        }
        Ok(paths)
    }

    /// Opens the log and begins to carry: when the container is started, because the kubelet counts
    /// its starts by its log files. Once carried, it does nothing. `resumed`: another daemon has
    /// carried before.
    pub(crate) async fn begin(&self, id: &ContainerId, resumed: bool) -> Result<()> {
        let Some(carrier) = self.of(id) else { return Ok(()) };
        let path = carrier.wanted.log.clone();
        let mut taken = Taken::from(carrier);
        if taken.sources.is_empty() {
            return Ok(());
        }
        let opened = blocking(move || {
            let open = if resumed { LogFile::resume } else { LogFile::open };
            Ok(path.map(|path| open(&path)).transpose()?)
        });
        let log = opened.await?;
        taken.carrier.orders.start(std::mem::take(&mut taken.sources), log, resumed)
    }

    /// Goes on carrying what a dead daemon has carried; nothing if this one does already. What is
    /// only opened is carried from now on: the dead one had started the task, and not said so.
    pub(crate) async fn resume(&self, id: &ContainerId, wanted: Wanted) -> Result<()> {
        self.open(id, wanted).await?;
        self.begin(id, true).await
    }

    /// Writes to a new log file from now on: the old one was moved away. That of a container whose last
    /// output has been written stays where it is: the caller is to move it back.
    pub(crate) async fn reopen(&self, id: &ContainerId) -> Result<()> {
        let over = || Trouble::Failed(not_running(id, "not running any more"));
        let carrier = self.of(id).ok_or_else(over)?;
        if !lock(&carrier.sources).is_empty() {
            // It could not be opened when this daemon began.
            return self.begin(id, true).await;
        }
        let (reply, answer) = oneshot::channel();
        carrier.orders.give(Order::Reopen(reply));
        match tokio::time::timeout(REOPEN, answer).await {
            Ok(Ok(done)) => Ok(done?),
            Ok(Err(_)) => Err(over()),
            Err(_) => failed(
                Kind::TimedOut,
                format!("the log could not be opened again within {REOPEN:?}: its disk is slow"),
            ),
        }
    }

    /// The container has ended: waits a little for the rest of its output, and says how many lines
    /// could not be written.
    pub(crate) async fn finish(&self, id: &ContainerId) -> u64 {
        let Some(carrier) = self.of(id) else { return 0 };
        let (reply, answer) = oneshot::channel();
        carrier.orders.give(Order::Finish(DRAIN, reply));
        // Twice: for the disk, after the pipe.
        match tokio::time::timeout(DRAIN * 2, answer).await {
            Ok(Ok(dropped)) => dropped,
            _ => carrier.orders.dropped(),
        }
    }

    /// Gives what a container says from now on to the writing ends of pipes as well, those of stdout and
    /// of stderr. They are closed at its end, after its last output, or when they are too far behind: then
    /// a byte has been written to `cut` before.
    pub(crate) fn follow(
        &self,
        id: &ContainerId,
        name: &str,
        to: [Option<OwnedFd>; 2],
        cut: OwnedFd,
    ) {
        let cut = Arc::new(cut);
        let Some(carrier) = self.of(id) else { return };
        for (followers, to) in carrier.followers.iter().zip(to) {
            if let Some(to) = to {
                followers.add(name, to, &cut);
            }
        }
    }

    /// Forgets a follower.
    pub(crate) fn unfollow(&self, id: &ContainerId, name: &str) {
        if let Some(carrier) = self.of(id) {
            carrier.followers.iter().for_each(|followers| followers.remove(name));
        }
    }

    /// A writing end of a container's input, if that is open. With `last`, the input is handed over:
    /// both of its ends, which the daemon has held.
    pub(crate) fn input(
        &self,
        id: &ContainerId,
        last: bool,
    ) -> Result<Option<(OwnedFd, Option<OwnedFd>)>> {
        let Some(carrier) = self.of(id) else { return Ok(None) };
        let mut stdin = lock(&carrier.stdin);
        if stdin.is_none() {
            return Ok(None);
        }
        // Of its own, with only an end to write to: it is seen when nobody reads any more.
        let to = open_fifo(carrier.wanted.fifo("io.in"), FifoEnd::Write)?;
        let both = if last { stdin.take() } else { None };
        Ok(Some((to, both)))
    }

    /// Nothing more is to be carried.
    pub(crate) fn end(&self, id: &ContainerId) {
        if let Some(carrier) = self.all().remove(id) {
            carrier.orders.give(Order::End);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
