//! Moving a container's output: from its pipe or terminal to its log and its followers, or to somebody's
//! fifo.
//!
//! A pump is a task that owns the reading end. The pumps of a shim share one pair of buffers, which
//! exist only while data flows: an idle container costs no buffer.
//!
//! ```text
//!  idle ──readable──▶ read, frame, write ──full read──▶ again
//!   ▲                        │ short read
//!   └──nothing came── wait a moment, read once more
//! ```

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use berth_log::{Followers, Framer, LogFile, Stream};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

/// One read takes what a pipe holds by default.
const READ: usize = 64 * 1024;
/// The pipe of a writer that has filled it once: while the pump pauses, it can write on.
const PIPE: usize = 256 * 1024;
/// After a short read: long enough for a writer of single lines to fill a batch, short enough not
/// to be seen. Halves the CPU of such a container's log.
const BATCH: Duration = Duration::from_micros(500);
/// Buffers are given back after this much silence.
const SILENCE: Duration = Duration::from_secs(1);
/// After a request to finish, at most this much is still read: a writer that does not stop is not
/// part of the container any more.
const LAST: usize = 16;

/// A log shared by the two outputs of one container.
pub type SharedLog = Arc<Mutex<LogFile>>;

/// The buffers that all pumps of a process share.
#[derive(Debug, Default)]
pub struct Buffers(Mutex<Pair>);

#[derive(Debug, Default)]
struct Pair {
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Buffers {
    fn take(&self) -> MutexGuard<'_, Pair> {
        let mut pair = lock(&self.0);
        if pair.input.is_empty() {
            pair.input = vec![0; READ];
            pair.output.reserve(2 * READ);
        }
        pair
    }

    fn release(&self) {
        *lock(&self.0) = Pair::default();
    }
}

/// A pump at work.
#[derive(Debug)]
pub struct Pump {
    task: tokio::task::JoinHandle<()>,
    finish: Option<oneshot::Sender<()>>,
    /// What it has read is written, however long its reader takes: a caller loses nothing.
    patient: bool,
}

impl Pump {
    /// Waits for the end of the stream; after `limit`, takes what is there and stops. Whoever still
    /// holds the other end has left the container.
    pub async fn drain(mut self, limit: Duration) {
        if tokio::time::timeout(limit, &mut self.task).await.is_ok() {
            return;
        }
        if let Some(finish) = self.finish.take() {
            let _ = finish.send(());
        }
        if self.patient {
            // It fails only if it panicked.
            let _ = self.task.await;
        } else if tokio::time::timeout(limit, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.task.is_finished()
    }

    fn start(work: impl Future<Output = ()> + Send + 'static, finish: oneshot::Sender<()>) -> Self {
        Self { task: tokio::spawn(work), finish: Some(finish), patient: false }
    }
}

/// Where an output goes: to its log, if it has one, and to who follows it.
#[derive(Debug)]
pub struct Listeners {
    /// The log.
    pub log: Option<SharedLog>,
    /// Who follows it as it comes; nobody any more when the pump has ended.
    pub followers: Arc<Followers>,
}

/// Starts to give what comes out of `from` (a pipe or a terminal) to its listeners.
pub fn to_listeners(
    from: OwnedFd,
    stream: Stream,
    to: Listeners,
    buffers: Arc<Buffers>,
) -> std::io::Result<Pump> {
    let from = readable(from)?;
    let (finish, asked) = oneshot::channel();
    let mut work = Logging { from, widened: false, framer: Framer::new(stream), to, buffers };
    Ok(Pump::start(async move { work.run(asked).await }, finish))
}

/// Starts to copy from one descriptor to another, at the pace of the slower one.
pub fn copy(from: OwnedFd, to: OwnedFd) -> std::io::Result<Pump> {
    let from = readable(from)?;
    nonblocking(&to)?;
    let to = berth_job::watch(to, Interest::WRITABLE)?;
    let (finish, asked) = oneshot::channel();
    let work = async move {
        tokio::select! {
            () = copy_all(&from, &to, std::future::pending()) => {}
            _ = asked => {}
        }
    };
    Ok(Pump::start(work, finish))
}

/// The same, for a reader that is there as long as somebody waits for what it is brought: what is
/// there at the end is written, however long that reader takes.
pub fn copy_patiently(from: OwnedFd, to: OwnedFd) -> std::io::Result<Pump> {
    let from = readable(from)?;
    nonblocking(&to)?;
    let to = berth_job::watch(to, Interest::WRITABLE)?;
    let (finish, asked) = oneshot::channel();
    let work = async move {
        let asked = async {
            let _ = asked.await;
        };
        copy_all(&from, &to, asked).await;
    };
    Ok(Pump { patient: true, ..Pump::start(work, finish) })
}

struct Logging {
    from: AsyncFd<OwnedFd>,
    /// Whether the pipe has been given its larger size.
    widened: bool,
    framer: Framer,
    to: Listeners,
    buffers: Arc<Buffers>,
}

/// However it ends: its followers learn of it.
impl Drop for Logging {
    fn drop(&mut self) {
        self.to.followers.end();
    }
}

/// What one read brought.
enum Got {
    Full,
    Some,
    Nothing,
    End,
}

impl Logging {
    async fn run(&mut self, asked: oneshot::Receiver<()>) {
        tokio::pin!(asked);
        loop {
            tokio::select! {
                ended = self.flow() => if ended { break },
                _ = &mut asked => {
                    for _ in 0..LAST {
                        if matches!(self.once(), Got::Nothing | Got::End) {
                            break;
                        }
                    }
                    break;
                }
            }
        }
        if let Some(log) = &self.to.log {
            let mut out = Vec::new();
            self.framer.finish(SystemTime::now(), &mut out);
            if !out.is_empty() {
                lock(log).write(&out);
            }
        }
        self.buffers.release();
    }

    /// Waits for data and moves it until there is none. True at the end of the stream.
    async fn flow(&mut self) -> bool {
        match tokio::time::timeout(SILENCE, self.from.readable()).await {
            Ok(Ok(mut ready)) => ready.retain_ready(),
            Ok(Err(_)) => return true,
            Err(_) => {
                self.buffers.release();
                self.framer.rest();
                match self.from.readable().await {
                    Ok(mut ready) => ready.retain_ready(),
                    Err(_) => return true,
                }
            }
        }
        loop {
            match self.once() {
                Got::Full => {
                    if !self.widened {
                        self.widened = true;
                        // A terminal has no such size, and a pipe works with any.
                        let _ = rustix::pipe::fcntl_setpipe_size(&self.from, PIPE);
                    }
                    tokio::task::yield_now().await;
                }
                Got::Some => tokio::time::sleep(BATCH).await,
                Got::Nothing => return false,
                Got::End => return true,
            }
        }
    }

    /// One read, and the writing of what it brought: no await in between, so that the buffers can
    /// be shared.
    fn once(&mut self) -> Got {
        let mut pair = self.buffers.take();
        let Pair { input, output } = &mut *pair;
        let count = match self.from.try_io(Interest::READABLE, |fd| read(fd, input)) {
            Ok(0) => return Got::End,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Got::Nothing,
            // A terminal answers EIO when its last process has gone.
            Err(_) => return Got::End,
        };
        self.to.followers.tell(&input[..count]);
        if let Some(log) = &self.to.log {
            let now = SystemTime::now();
            let mut rest = &input[..count];
            while !rest.is_empty() {
                let taken = self.framer.push(now, rest, output);
                rest = &rest[taken..];
                if !output.is_empty() {
                    lock(log).write(output);
                    output.clear();
                }
            }
        }
        if count == READ { Got::Full } else { Got::Some }
    }
}

/// Once it is asked to finish, it takes what is there and waits for no more.
async fn copy_all(from: &AsyncFd<OwnedFd>, to: &AsyncFd<OwnedFd>, asked: impl Future<Output = ()>) {
    let mut asked = std::pin::pin!(asked);
    let mut space = Vec::new();
    let mut rounds = None;
    while rounds != Some(0) {
        let ready = tokio::select! {
            biased;
            () = &mut asked, if rounds.is_none() => {
                rounds = Some(LAST);
                continue;
            }
            ready = from.readable() => ready,
            () = std::future::ready(()), if rounds.is_some() => return,
        };
        rounds = rounds.map(|left| left - 1);
        let Ok(mut ready) = ready else { return };
        space.resize(4096, 0);
        let count = match ready.try_io(|fd| read(fd.get_ref(), &mut space)) {
            Ok(Ok(0) | Err(_)) => return,
            Ok(Ok(count)) => count,
            Err(_) => {
                space = Vec::new();
                continue;
            }
        };
        let mut rest = &space[..count];
        while !rest.is_empty() {
            let Ok(mut ready) = to.writable().await else { return };
            match ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), rest)?)) {
                Ok(Ok(count)) => rest = &rest[count..],
                Ok(Err(_)) => return,
                Err(_) => {}
            }
        }
    }
}

fn read(fd: &OwnedFd, into: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match rustix::io::read(fd, &mut *into) {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

fn readable(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    nonblocking(&fd)?;
    berth_job::watch(fd, Interest::READABLE)
}

fn nonblocking(fd: impl AsFd) -> std::io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    Ok(rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?)
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half done by a panic under these locks, and the shim aborts on panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
