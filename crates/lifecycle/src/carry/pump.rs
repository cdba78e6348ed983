//! One container's thread: out of its fifos, into its log.
//!
//! ```text
//!   poll ─▶ tee into a pipe of ours ─▶ read ─▶ frame ─▶ write the log ─▶ take out of the fifo
//!    ▲                                                                        │
//!    └──────────────────────── what ends no line yet stays ───────────────────┘
//! ```
//!
//! A line is taken out of the fifo only after it was written: a daemon that is killed in between
//! leaves it to the next one, which then writes it a second time. Nothing is lost.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use berth_log::{Followers, Framer, LINE, LogFile, Stream};
use berth_pod::Kind;
use berth_sys::pipe::set_nonblocking;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::pipe::SpliceFlags;
use tokio::sync::oneshot;

use crate::effect::{Result, failed};

/// What a pipe holds by default: one round takes no more.
const ROUND: usize = 64 << 10;

/// A text that no newline ends is written, marked as a part, after this much silence.
const PART: Duration = Duration::from_secs(1);

/// How often such a text is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(50);

/// After a round that took little: a writer of single lines fills a batch meanwhile.
const BATCH: Duration = Duration::from_micros(500);

/// Buffers are given back after this much silence.
const SILENCE: Duration = Duration::from_secs(1);

/// After the end of the container at most this many rounds are taken: who still writes is not part
/// of it any more.
const LAST: usize = 16;

/// What a thread touches of its stack is little; buffers are on the heap.
const STACK: usize = 256 << 10;

/// What the thread is told.
pub(super) enum Order {
    /// To open its log again.
    Reopen(oneshot::Sender<berth_log::Result<()>>),
    /// To carry what comes within this time, and to say how many lines were dropped.
    Finish(Duration, oneshot::Sender<u64>),
    /// To end at once.
    End,
}

impl std::fmt::Debug for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Order::Reopen(_) => "Reopen",
            Order::Finish(..) => "Finish",
            Order::End => "End",
        })
    }
}

/// The way to the thread. It may not run yet, or not any more: then orders are forgotten.
#[derive(Debug)]
pub(super) struct Orders(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    wake: OwnedFd,
    /// None: nobody takes orders.
    queue: Mutex<Option<VecDeque<Order>>>,
    dropped: AtomicU64,
}

impl Orders {
    pub(super) fn new() -> Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let wake = wake
            .map_err(|e| ("make", std::path::Path::new("an eventfd"), std::io::Error::from(e)))?;
        Ok(Self(Arc::new(Shared { wake, queue: Mutex::new(None), dropped: AtomicU64::new(0) })))
    }

    pub(super) fn give(&self, order: Order) {
        if let Some(queue) = &mut *self.0.queue() {
            queue.push_back(order);
            // Fails only when its counter is full: then it is awake.
            let _ = rustix::io::write(&self.0.wake, &1_u64.to_ne_bytes());
        }
    }

    pub(super) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Starts the thread.
    pub(super) fn start(
        &self,
        sources: Vec<Source>,
        log: Option<LogFile>,
        resumed: bool,
    ) -> Result<()> {
        let (peeked, into) = berth_sys::pipe::pipe()?;
        set_nonblocking(&into, true)?;
        let shared = Arc::clone(&self.0);
        *shared.queue() = Some(VecDeque::new());
        let mut pump = Pump { shared, sources, log, peeked, into, space: Vec::new(), until: None };
        let started = std::thread::Builder::new()
            .name("log".into())
            .stack_size(STACK)
            .spawn(move || pump.run(resumed));
        match started {
            Ok(_) => Ok(()),
            Err(why) => {
                *self.0.queue() = None;
                failed(Kind::Exhausted, format!("cannot start the thread of a log: {why}"))
            }
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Option<VecDeque<Order>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One fifo.
#[derive(Debug)]
pub(super) struct Source {
    fifo: OwnedFd,
    framer: Framer,
    /// A text without a newline that is still in the fifo: how long, and since when it is.
    part: Option<(usize, Instant)>,
    followers: Arc<Followers>,
    /// How much of what is still in the fifo the followers have been told.
    told: usize,
}

impl Source {
    pub(super) fn new(stream: Stream, fifo: OwnedFd) -> Self {
        Self { fifo, framer: Framer::new(stream), part: None, followers: Arc::default(), told: 0 }
    }

    /// Who follows it as it comes.
    pub(super) fn followers(&self) -> Arc<Followers> {
        Arc::clone(&self.followers)
    }
}

/// However its end comes: its followers learn of it.
impl Drop for Source {
    fn drop(&mut self) {
        self.followers.end();
    }
}

/// What one round brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Got {
    Much,
    Little,
    /// Nothing that can be written yet.
    Nothing,
    /// Nobody writes any more, and all is written.
    End,
}

struct Pump {
    shared: Arc<Shared>,
    sources: Vec<Source>,
    log: Option<LogFile>,
    /// Where a fifo's content is looked at, from the other end `into`.
    peeked: OwnedFd,
    into: OwnedFd,
    space: Vec<u8>,
    /// The container has ended; when to stop, and who waits for that.
    until: Option<(Instant, Vec<oneshot::Sender<u64>>)>,
}

impl Pump {
    fn run(&mut self, resumed: bool) {
        if resumed {
            // poll(2) tells of writers that are gone only if they were there after the fifo was
            // opened; a read tells always.
            self.rounds(|_| true, false);
        }
        // A log whose container has closed its outputs may still be reopened.
        while !self.sources.is_empty() || self.until.is_none() {
            let ready = self.wait();
            if !self.obey() {
                break;
            }
            let over = self.until.as_ref().is_some_and(|(at, _)| Instant::now() >= *at);
            if over {
                for _ in 0..LAST {
                    if self.rounds(|_| true, true) == Got::Nothing {
                        break;
                    }
                }
                break;
            }
            let got = self.rounds(|at| ready.get(at).is_some_and(|flags| !flags.is_empty()), false);
            if got == Got::Little {
                std::thread::sleep(BATCH);
            }
        }
        self.leave();
    }

    /// Waits for output, for an order, or until something is to be done without either.
    fn wait(&mut self) -> Vec<PollFlags> {
        let part = self.sources.iter().any(|source| source.part.is_some());
        let end = self.until.as_ref().map(|(at, _)| at.saturating_duration_since(Instant::now()));
        let limit = match (part, end) {
            (true, end) => Some(end.unwrap_or(LOOK).min(LOOK)),
            (false, Some(end)) => Some(end),
            (false, None) if !self.space.is_empty() => Some(SILENCE),
            (false, None) => None,
        };
        let limit = limit.map(|limit| Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(limit.subsec_nanos()),
        });
        let mut fds = vec![PollFd::new(&self.shared.wake, PollFlags::IN)];
        // A text without an end makes its fifo readable all the time.
        let asked = |source: &Source| match source.part {
            Some(_) => PollFlags::empty(),
            None => PollFlags::IN,
        };
        fds.extend(self.sources.iter().map(|source| PollFd::new(&source.fifo, asked(source))));
        let events = poll(&mut fds, limit.as_ref());
        let mut ready: Vec<_> = fds.iter().skip(1).map(PollFd::revents).collect();
        if matches!(events, Ok(0)) && !part && self.until.is_none() {
            self.space = Vec::new();
        }
        for (source, flags) in self.sources.iter().zip(&mut ready) {
            if source.part.is_some() {
                *flags |= PollFlags::IN;
            }
        }
        let _ = rustix::io::read(&self.shared.wake, &mut [0_u8; 8]);
        ready
    }

    /// Does what was asked; false: to end.
    fn obey(&mut self) -> bool {
        let orders = self.shared.queue().as_mut().map(std::mem::take).unwrap_or_default();
        for order in orders {
            match order {
                Order::Reopen(reply) => {
                    let reopened = self.log.as_mut().map_or(Ok(()), LogFile::reopen);
                    // Who asked may have gone.
                    let _ = reply.send(reopened);
                }
                Order::Finish(limit, reply) => {
                    let end = Instant::now() + limit;
                    let (at, waiting) = self.until.get_or_insert_with(|| (end, Vec::new()));
                    *at = end.min(*at);
                    waiting.push(reply);
                }
                Order::End => return false,
            }
        }
        true
    }

    /// One round for each source of these; the most that one of them brought.
    fn rounds(&mut self, of: impl Fn(usize) -> bool, last: bool) -> Got {
        let mut most = Got::Nothing;
        let mut ended = Vec::new();
        for at in 0..self.sources.len() {
            if !of(at) {
                continue;
            }
            match self.round(at, last) {
                Got::End => ended.push(at),
                Got::Much => most = Got::Much,
                Got::Little if most == Got::Nothing => most = Got::Little,
                Got::Little | Got::Nothing => {}
            }
        }
        for at in ended.into_iter().rev() {
            self.sources.remove(at);
        }
        self.shared.dropped.store(self.dropped(), Ordering::Relaxed);
        most
    }

    fn round(&mut self, at: usize, last: bool) -> Got {
        let source = &mut self.sources[at];
        let there = match peek(&source.fifo, &self.peeked, &self.into, &mut self.space) {
            Ok(0) => return Got::End,
            Ok(there) => there,
            Err(Errno::AGAIN | Errno::INTR) => return Got::Nothing,
            Err(_) => return Got::End,
        };
        let text = &self.space[..there];
        // An interactive program's words have no end: followers do not wait for one.
        source.followers.tell(text.get(source.told..).unwrap_or_default());
        source.told = there;
        let Some(log) = &mut self.log else {
            source.told = 0;
            consume(source.fifo.as_fd(), &mut self.space[..there]);
            return if there < ROUND / 2 { Got::Little } else { Got::Much };
        };
        let mut take = whole(text);
        let now = SystemTime::now();
        let mut out = Vec::new();
        if take == 0 {
            let gone = writers_are_gone(source.fifo.as_fd());
            let since = match source.part {
                Some((length, since)) if length == there => since,
                _ => Instant::now(),
            };
            if !last && !gone && since.elapsed() < PART {
                source.part = Some((there, since));
                return Got::Nothing;
            }
            take = there;
            write(log, &mut source.framer, now, text, &mut out);
            match gone || last {
                true => source.framer.finish(now, &mut out),
                false => source.framer.part(now, &mut out),
            }
        } else {
            write(log, &mut source.framer, now, &text[..take], &mut out);
            // Whole lines leave nothing behind; a piece of a long one has exactly their length.
            source.framer.part(now, &mut out);
        }
        source.part = None;
        if !out.is_empty() {
            log.write(&out);
        }
        source.told -= take;
        consume(source.fifo.as_fd(), &mut self.space[..take]);
        if there < ROUND / 2 { Got::Little } else { Got::Much }
    }

    fn dropped(&self) -> u64 {
        self.log.as_ref().map_or(0, LogFile::dropped)
    }

    /// Tells whoever waits, and takes no orders any more.
    fn leave(&mut self) {
        let dropped = self.dropped();
        self.shared.dropped.store(dropped, Ordering::Relaxed);
        let rest = self.shared.queue().take().unwrap_or_default();
        let waiting = self.until.take().map(|(_, waiting)| waiting).unwrap_or_default();
        let late = rest.into_iter().filter_map(|order| match order {
            Order::Finish(_, reply) => Some(reply),
            Order::Reopen(_) | Order::End => None,
        });
        for reply in waiting.into_iter().chain(late) {
            let _ = reply.send(dropped);
        }
    }
}

/// Looks at what is in a fifo, and leaves it there. 0: it is empty, and nobody writes to it.
fn peek(
    fifo: &OwnedFd,
    peeked: &OwnedFd,
    into: &OwnedFd,
    space: &mut Vec<u8>,
) -> rustix::io::Result<usize> {
    let there = rustix::pipe::tee(fifo, into, ROUND, SpliceFlags::NONBLOCK)?;
    if space.is_empty() {
        *space = vec![0; ROUND];
    }
    let mut got = 0;
    while got < there {
        match rustix::io::read(peeked, &mut space[got..there]) {
            Ok(0) => break,
            Ok(count) => got += count,
            Err(Errno::INTR) => {}
            Err(why) => return Err(why),
        }
    }
    Ok(got)
}

/// How much of a text can be written and leaves nothing to be remembered: its whole lines, and of a
/// line that is too long the pieces in which it is cut.
fn whole(text: &[u8]) -> usize {
    let lines = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let rest = text.len() - lines;
    // A newline may still follow a piece of full length, which is then a line.
    lines + rest.saturating_sub(1) / LINE * LINE
}

/// Frames and writes a text, but for what is held back, and for the rest of `out`.
fn write(
    log: &mut LogFile,
    framer: &mut Framer,
    now: SystemTime,
    mut text: &[u8],
    out: &mut Vec<u8>,
) {
    while !text.is_empty() {
        let taken = framer.push(now, text, out);
        text = &text[taken..];
        if !text.is_empty() {
            log.write(out);
            out.clear();
        }
    }
}

fn writers_are_gone(fifo: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(&fifo, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::HUP)
}

/// Takes out of the fifo what has been written.
fn consume(fifo: BorrowedFd<'_>, space: &mut [u8]) {
    let mut done = 0;
    while done < space.len() {
        match rustix::io::read(fifo, &mut space[done..]) {
            Ok(0) => return,
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_sys::pipe::{FifoEnd, make_fifo, open_fifo};
    use std::path::{Path, PathBuf};

    struct Bed {
        dir: tempfile::TempDir,
        orders: Orders,
        write: Option<OwnedFd>,
    }

    /// A pump at work over one fifo; `before` is in the fifo, and in the log, when it begins.
    fn pump(before: (&str, &str), resumed: bool) -> Bed {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("io.out");
        make_fifo(&fifo, 0o600).unwrap();
        let read = open_fifo(&fifo, FifoEnd::Read).unwrap();
        let write = open_fifo(&fifo, FifoEnd::Write).unwrap();
        rustix::io::write(&write, before.0.as_bytes()).unwrap();
        std::fs::write(dir.path().join("log"), before.1).unwrap();
        let log = LogFile::resume(&dir.path().join("log")).unwrap();
        let orders = Orders::new().unwrap();
        orders.start(vec![Source::new(Stream::Stdout, read)], Some(log), resumed).unwrap();
        Bed { dir, orders, write: Some(write) }
    }

    impl Bed {
        fn log(&self) -> PathBuf {
            self.dir.path().join("log")
        }

        fn say(&self, text: &[u8]) {
            let mut rest = text;
            while !rest.is_empty() {
                match rustix::io::write(self.write.as_ref().unwrap(), rest) {
                    Ok(count) => rest = &rest[count..],
                    Err(Errno::AGAIN) => std::thread::yield_now(),
                    Err(why) => panic!("{why}"),
                }
            }
        }

        fn in_fifo(&self) -> u64 {
            let fifo = open_fifo(self.dir.path().join("io.out"), FifoEnd::Read).unwrap();
            rustix::io::ioctl_fionread(fifo).unwrap()
        }

        fn finish(mut self) -> String {
            self.write = None;
            let (reply, done) = oneshot::channel();
            self.orders.give(Order::Finish(Duration::from_secs(20), reply));
            done.blocking_recv().unwrap();
            texts(&self.log())
        }
    }

    /// The tags and texts of a log.
    fn texts(log: &Path) -> String {
        let text = std::fs::read_to_string(log).unwrap();
        let line = |line: &str| line.splitn(4, ' ').skip(2).collect::<Vec<_>>().join(" ") + "\n";
        text.lines().map(line).collect()
    }

    fn until(what: impl Fn() -> bool) {
        let begin = Instant::now();
        while !what() {
            assert!(begin.elapsed() < Duration::from_secs(20), "it does not come");
            std::thread::yield_now();
        }
    }

    #[test]
    fn lines_are_carried_and_the_end_ends_the_last_one() {
        let bed = pump(("", ""), false);
        bed.say(b"one\ntwo\n");
        bed.say(b"three");
        assert_eq!(bed.finish(), "F one\nF two\nF three\n");
    }

    #[test]
    fn a_text_without_an_end_stays_in_the_fifo_and_is_then_given_out_as_a_part() {
        let bed = pump(("", ""), false);
        bed.say(b"one\nlogin: ");
        until(|| texts(&bed.log()) == "F one\n");
        assert_eq!(bed.in_fifo(), 7, "a daemon that is killed now loses nothing");
        until(|| texts(&bed.log()) == "F one\nP login: \n");
        until(|| bed.in_fifo() == 0);
        bed.say(b"me\n");
        assert_eq!(bed.finish(), "F one\nP login: \nF me\n");
    }

    #[test]
    fn what_a_dead_daemon_left_is_carried_and_its_torn_line_made_whole() {
        let mut bed = pump(("two\nthree\n", "T stdout F one\nT stdout F tw"), true);
        bed.write = None;
        assert_eq!(bed.finish(), "F one\nF two\nF three\n");
    }

    #[test]
    fn a_writer_that_is_gone_before_the_next_daemon_comes_holds_nothing_up() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("io.out");
        make_fifo(&fifo, 0o600).unwrap();
        let read = open_fifo(&fifo, FifoEnd::Read).unwrap();
        let log = LogFile::open(&dir.path().join("log")).unwrap();
        let orders = Orders::new().unwrap();
        orders.start(vec![Source::new(Stream::Stdout, read)], Some(log), true).unwrap();
        let (reply, done) = oneshot::channel();
        orders.give(Order::Finish(Duration::from_secs(1000), reply));
        assert_eq!(done.blocking_recv().unwrap(), 0);
    }

    #[test]
    fn long_lines_and_floods_are_cut_as_our_shim_cuts_them() {
        let bed = pump(("", ""), false);
        let mut text = vec![b'x'; 3 * LINE + 5];
        text.push(b'\n');
        text.extend(vec![b'y'; LINE]);
        text.push(b'\n');
        bed.say(&text);
        let many: String = (0..50_000).map(|n| format!("{n}\n")).collect();
        bed.say(many.as_bytes());
        let carried = bed.finish();
        let x = "x".repeat(LINE);
        let head = format!("P {x}\nP {x}\nP {x}\nF xxxxx\nF {}\n", "y".repeat(LINE));
        let lines: String = (0..50_000).map(|n| format!("F {n}\n")).collect();
        assert!(carried == head + &lines, "{} bytes", carried.len());
    }

    #[test]
    fn a_log_is_reopened_between_lines() {
        let bed = pump(("", ""), false);
        bed.say(b"one\n");
        until(|| texts(&bed.log()) == "F one\n");
        let old = bed.dir.path().join("old");
        std::fs::rename(bed.log(), &old).unwrap();
        let (reply, done) = oneshot::channel();
        bed.orders.give(Order::Reopen(reply));
        done.blocking_recv().unwrap().unwrap();
        assert!(bed.log().exists(), "it is answered when the new file is there");
        assert_eq!(texts(&old), "F one\n");
        bed.say(b"two\n");
        assert_eq!(bed.finish(), "F two\n");
    }

    #[test]
    fn what_a_full_disk_does_not_take_is_counted_and_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("io.out");
        make_fifo(&fifo, 0o600).unwrap();
        let read = open_fifo(&fifo, FifoEnd::Read).unwrap();
        let write = open_fifo(&fifo, FifoEnd::Write).unwrap();
        let log = LogFile::open(Path::new("/dev/full")).unwrap();
        let orders = Orders::new().unwrap();
        orders.start(vec![Source::new(Stream::Stderr, read)], Some(log), false).unwrap();
        rustix::io::write(&write, b"one\ntwo\nthree\n").unwrap();
        drop(write);
        let (reply, done) = oneshot::channel();
        orders.give(Order::Finish(Duration::from_secs(20), reply));
        assert_eq!(done.blocking_recv().unwrap(), 3);
    }

    #[test]
    fn what_can_be_written_leaves_nothing_to_be_remembered() {
        assert_eq!(whole(b""), 0);
        assert_eq!(whole(b"part"), 0);
        assert_eq!(whole(b"one\ntwo\npart"), 8);
        let long = vec![b'x'; LINE];
        assert_eq!(whole(&long), 0, "a newline may follow");
        assert_eq!(whole(&vec![b'x'; 2 * LINE + 1]), 2 * LINE);
    }
}
