//! Moving a container's output: from its pipe or terminal to its log, or to somebody's fifo.
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

use berth_log::{Framer, LogFile, Stream};
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
        if tokio::time::timeout(limit, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }

    fn start(work: impl Future<Output = ()> + Send + 'static, finish: oneshot::Sender<()>) -> Self {
        Self { task: tokio::spawn(work), finish: Some(finish) }
    }
}

/// Starts to write what comes out of `from` (a pipe or a terminal) to a log.
pub fn to_log(
    from: OwnedFd,
    stream: Stream,
    log: SharedLog,
    buffers: Arc<Buffers>,
) -> std::io::Result<Pump> {
    let from = readable(from)?;
    let (finish, asked) = oneshot::channel();
    let mut work = Logging { from, widened: false, framer: Framer::new(stream), log, buffers };
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
            () = copy_all(&from, &to) => {}
            _ = asked => {}
        }
    };
    Ok(Pump::start(work, finish))
}

struct Logging {
    from: AsyncFd<OwnedFd>,
    /// Whether the pipe has been given its larger size.
    widened: bool,
    framer: Framer,
    log: SharedLog,
    buffers: Arc<Buffers>,
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
        let mut out = Vec::new();
        self.framer.finish(SystemTime::now(), &mut out);
        if !out.is_empty() {
            lock(&self.log).write(&out);
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
        let now = SystemTime::now();
        let mut rest = &input[..count];
        while !rest.is_empty() {
            let taken = self.framer.push(now, rest, output);
            rest = &rest[taken..];
            if !output.is_empty() {
                lock(&self.log).write(output);
                output.clear();
            }
        }
        if count == READ { Got::Full } else { Got::Some }
    }
}

async fn copy_all(from: &AsyncFd<OwnedFd>, to: &AsyncFd<OwnedFd>) {
    let mut space = Vec::new();
    loop {
        let Ok(mut ready) = from.readable().await else { return };
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
