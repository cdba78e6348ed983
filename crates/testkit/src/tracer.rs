//! The tracer: a process of its own that follows every system call of a daemon and kills it at
//! exactly one write of its log.
//!
//! A process of its own, because waiting for tracees also reaps children, and a test has some.
//! When it ends, the kernel lets every tracee go on.
//!
//! ```text
//!   write(2, "... effect begin ...")   entry stop: kill here = the line was never written
//!                                      exit stop:  kill here = it was, and nothing after it
//! ```

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result, bail};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::crash::{Side, Strike, point};

/// A log line is never longer; the rest of a write is not looked at.
const LINE: usize = 4096;

/// Follows a process until it ends or is struck, and prints `attached`, then `N LINE` for each
/// line that is a point, then `killed`.
///
/// # Errors
/// If the process cannot be traced.
pub fn run(pid: u32, strike: Option<Strike>) -> Result<()> {
    let leader = Pid::from_raw(pid.cast_signed());
    let mem = format!("/proc/{pid}/mem");
    let memory = File::open(&mem).with_context(|| format!("open {mem}"))?;
    let mut tracer =
        Tracer { leader, memory, strike, count: 0, waiting: BTreeSet::new(), armed: None };
    tracer.attach()?;
    tracer.follow()
}

struct Tracer {
    leader: Pid,
    memory: File,
    strike: Option<Strike>,
    count: usize,
    /// Threads that were asked to stop for the first time and have not yet.
    waiting: BTreeSet<Pid>,
    /// The thread whose current write is the one to die after.
    armed: Option<Pid>,
}

impl Tracer {
    fn attach(&mut self) -> Result<()> {
        let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE;
        let mut known = BTreeSet::new();
        // A thread that is not yet traced may make another meanwhile: until none is new.
        loop {
            let before = known.len();
            let tasks = format!("/proc/{}/task", self.leader);
            for entry in fs::read_dir(&tasks).with_context(|| format!("list {tasks}"))?.flatten() {
                let name = entry.file_name();
                let tid = name.to_string_lossy().parse().map(Pid::from_raw)?;
                if !known.insert(tid) {
                    continue;
                }
                // Fails for one that ended, and for one traced since its parent's clone.
                if ptrace::seize(tid, options).is_ok() && ptrace::interrupt(tid).is_ok() {
                    self.waiting.insert(tid);
                }
            }
            if known.len() == before {
                return Ok(());
            }
        }
    }

    fn follow(&mut self) -> Result<()> {
        let mut announced = false;
        loop {
            if self.waiting.is_empty() && !announced {
                announced = true;
                say("attached")?;
            }
            let status = waitpid(None::<Pid>, Some(WaitPidFlag::__WALL)).context("wait")?;
            let (tid, signal) = match status {
                WaitStatus::Exited(tid, _) | WaitStatus::Signaled(tid, _, _) => {
                    self.waiting.remove(&tid);
                    if tid == self.leader {
                        return Ok(());
                    }
                    continue;
                }
                WaitStatus::PtraceSyscall(tid) => {
                    if self.at_call(tid)? {
                        return Ok(());
                    }
                    (tid, None)
                }
                WaitStatus::PtraceEvent(tid, _, _) => {
                    self.waiting.remove(&tid);
                    (tid, None)
                }
                WaitStatus::Stopped(tid, signal) => (tid, Some(signal)),
                other => bail!("a state that a tracee cannot be in: {other:?}"),
            };
            // A thread that was killed meanwhile tells so at the next wait.
            let _ = ptrace::syscall(tid, signal);
        }
    }

    /// Looks at a system call's entry or exit; true once the daemon has been killed.
    fn at_call(&mut self, tid: Pid) -> Result<bool> {
        let Ok(call) = Call::of(tid) else { return Ok(false) };
        if !call.writes_to_stderr() {
            return Ok(false);
        }
        if !entering(tid) {
            if self.armed == Some(tid) {
                self.kill()?;
                return Ok(true);
            }
            return Ok(false);
        }
        let text = self.text(&call);
        for line in text.lines() {
            if point(line).is_none() {
                continue;
            }
            self.count += 1;
            say(&format!("{} {line}", self.count))?;
            match self.strike {
                Some(strike) if strike.number == self.count => match strike.side {
                    Side::Before => {
                        self.kill()?;
                        return Ok(true);
                    }
                    Side::After => self.armed = Some(tid),
                },
                _ => {}
            }
        }
        Ok(false)
    }

    fn kill(&self) -> Result<()> {
        kill(self.leader, Signal::SIGKILL).context("kill the daemon")?;
        say("killed")
    }

    /// What the call writes, as far as a line can go.
    fn text(&self, call: &Call) -> String {
        let mut bytes = Vec::new();
        if call.number == Call::WRITE {
            bytes = self.read(call.arguments[1], call.arguments[2]);
        } else {
            for index in 0..call.arguments[2].min(16) {
                let vector = self.read(call.arguments[1] + index * 16, 16);
                let word = |at: usize| {
                    let bytes = vector.get(at..at + 8).and_then(|slice| slice.try_into().ok());
                    bytes.map(u64::from_ne_bytes)
                };
                if let (Some(base), Some(length)) = (word(0), word(8)) {
                    bytes.extend(self.read(base, length));
                }
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn read(&self, address: u64, length: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(LINE).min(LINE)];
        let read = self.memory.read_at(&mut bytes, address).unwrap_or(0);
        bytes.truncate(read);
        bytes
    }
}

/// The system call that a stopped thread is at.
struct Call {
    number: u64,
    arguments: [u64; 3],
}

#[cfg(target_arch = "x86_64")]
impl Call {
    const WRITE: u64 = 1;
    const WRITEV: u64 = 20;

    fn of(tid: Pid) -> nix::Result<Self> {
        let registers = ptrace::getregs(tid)?;
        Ok(Self {
            number: registers.orig_rax,
            arguments: [registers.rdi, registers.rsi, registers.rdx],
        })
    }
}

#[cfg(target_arch = "aarch64")]
impl Call {
    const WRITE: u64 = 64;
    const WRITEV: u64 = 66;

    fn of(tid: Pid) -> nix::Result<Self> {
        let registers = ptrace::getregset::<ptrace::regset::NT_PRSTATUS>(tid)?.regs;
        Ok(Self { number: registers[8], arguments: [registers[0], registers[1], registers[2]] })
    }
}

impl Call {
    fn writes_to_stderr(&self) -> bool {
        [Self::WRITE, Self::WRITEV].contains(&self.number) && self.arguments[0] == 2
    }
}

/// Whether the thread is at the entry of its call (`PTRACE_SYSCALL_INFO_ENTRY`), not the exit.
fn entering(tid: Pid) -> bool {
    ptrace::syscall_info(tid).is_ok_and(|info| info.op == 1)
}

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("report to the test")
}
