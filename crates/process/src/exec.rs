//! An exec: one more process in a container that runs.
//!
//! Each exec gets a cgroup of its own below the container's (on v1 in the freezer hierarchy only,
//! so that accounting is not split), because killing an exec means killing what it started, and a
//! grandchild whose parent has died can be told from the container's own processes by nothing else.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use berth_sys::Signal;
use tokio::sync::Notify;

use crate::console::Console;
use crate::container::Container;
use crate::error::{Error, Result};
use crate::guest::Guest;
use crate::place::{Place, SubPlace};
use crate::process::{Ended, Life, Phase, Program, signal};
use crate::pump::lock;
use crate::reaper::Watched;
use crate::runtime::{ExecCall, Scratch};
use crate::stdio::{Ends, Owner, Stdio};

/// Output of an exec that somebody else still holds open after its end is not waited for longer.
const DRAIN: Duration = Duration::from_secs(2);
/// How long a signal waits for the program to have taken the runtime's place.
const STARTED: Duration = Duration::from_secs(10);

/// What an exec is to be.
#[derive(Clone, Debug)]
pub struct ExecRequest {
    /// Its id within the container.
    pub id: String,
    /// Its streams.
    pub ends: Ends,
    /// The OCI `process`, as JSON.
    pub process: Vec<u8>,
}

/// One exec.
#[derive(Debug)]
pub(crate) struct Exec {
    id: String,
    ends: Ends,
    process: Vec<u8>,
    life: Life,
    /// The number of this exec in the life of the shim: names its files and its cgroup.
    serial: u64,
    started: OnceLock<Started>,
    place: OnceLock<SubPlace>,
    /// It was killed while the runtime was starting it.
    doomed: AtomicBool,
    doom: Notify,
}

#[derive(Debug)]
struct Started {
    process: Watched,
    /// The pid of what it stands for, in the kernel of a sandbox.
    guest: Option<u32>,
}

/// Where a runtime says which process it has started.
struct PidFiles {
    own: Scratch,
    /// In the kernel of a sandbox.
    guest: Scratch,
}

impl PidFiles {
    fn guest(&self) -> Option<u32> {
        std::fs::read_to_string(&self.guest.0).ok()?.trim().parse().ok()
    }
}

impl Exec {
    pub(crate) fn new(request: ExecRequest, serial: u64) -> Self {
        Self {
            id: request.id,
            ends: request.ends,
            process: request.process,
            life: Life::new(Stdio::default()),
            serial,
            started: OnceLock::new(),
            place: OnceLock::new(),
            doomed: AtomicBool::new(false),
            doom: Notify::new(),
        }
    }

    pub(crate) fn life(&self) -> &Life {
        &self.life
    }

    pub(crate) fn ends(&self) -> &Ends {
        &self.ends
    }

    /// Its pid; 0 before it has one.
    pub(crate) fn pid(&self) -> u32 {
        self.started.get().map_or(0, |started| started.process.pid().as_raw_pid().cast_unsigned())
    }

    /// Its pid in the kernel that it runs in; 0 before it has one.
    pub(crate) fn inner_pid(&self) -> u32 {
        self.started.get().and_then(|started| started.guest).unwrap_or_else(|| self.pid())
    }

    /// Starts it in its container.
    pub(crate) async fn start(self: &Arc<Self>, container: &Container) -> Result<u32> {
        if !self.life.pass(Phase::Ready, Phase::Starting) {
            return Err(Error::state("start", &self.id, "it has been started before"));
        }
        let file = |kind| Scratch(container.bundle().join(format!("exec-{}.{kind}", self.serial)));
        let pid_files = PidFiles { own: file("pid"), guest: file("guest") };
        let launched = tokio::select! {
            launched = self.launch(container, &pid_files) => launched,
            () = self.doom.notified() => Err(Error::Cancelled { id: self.id.clone() }),
        };
        let error = match launched {
            Err(error) if self.started.get().is_none() => error,
            // There is a process, and an attendant that reports its end.
            _ => {
                self.life.pass(Phase::Starting, Phase::Running);
                return launched.map(|()| self.pid());
            }
        };
        // A runtime that ran out of time may have got as far as a process.
        if let Some(place) = self.place.get() {
            let _ = place.kill_all(&self.id).await;
        }
        if let (Some(guest), Some(pid)) = (container.guest(), pid_files.guest()) {
            let _ = guest.kill_tree(pid).await;
        }
        self.life.drain(Duration::ZERO).await;
        self.remove_place();
        self.life.fail();
        if container.ends_soon().await {
            return Err(Error::state("exec in", container.id(), "it has ended"));
        }
        Err(error)
    }

    async fn launch(self: &Arc<Self>, container: &Container, pid_files: &PidFiles) -> Result<()> {
        let bundle = container.bundle();
        let (stdio, streams) = Stdio::open(&self.ends, Owner::Exec).await?;
        if container.is_paused() {
            return Err(Error::state("exec in", container.id(), "it is paused"));
        }
        *lock(&self.life.stdio) = stdio;
        lock(&self.life.stdio).begin(container.buffers())?;
        let spec = Scratch(bundle.join(format!("exec-{}.json", self.serial)));
        std::fs::write(&spec.0, &self.process).map_err(|e| Error::file("write", &spec.0, e))?;
        let console = match self.ends.terminal {
            true => Some(Console::listen(container.socket(&format!("e{}", self.serial)))?),
            false => None,
        };
        let (name, flavour) = (format!("exec-{}", self.serial), container.runtime().flavour());
        let sub = container.native_place().and_then(|place| place.sub(&name, flavour));
        let call = ExecCall {
            id: container.id(),
            bundle,
            process: &spec.0,
            pid_file: &pid_files.own.0,
            guest_pid_file: container.guest().map(|_| pid_files.guest.0.as_path()),
            console: console.as_ref().map(Console::path),
            cgroup: sub.as_ref().and_then(SubPlace::argument),
        };
        let told = call.cgroup.is_some();
        if let Some(sub) = sub {
            let _ = self.place.set(sub);
        }
        let process = container.runtime().exec(call, streams).await?;
        let pid = process.pid();
        if let (false, Some(place)) = (told, self.place.get()) {
            place.take_in(pid);
        }
        if container.guest().is_none() {
            share_oom_score(container.pid(), pid.as_raw_pid().cast_unsigned());
        }
        if let Some(console) = console {
            self.connect(console, container).await?;
        }
        let program = Program::of(pid).filter(|program| container.is_runtime(*program));
        let _ = self.started.set(Started { process, guest: pid_files.guest() });
        tokio::spawn(Arc::clone(self).attend());
        if let Some(program) = program {
            program.replaced(pid).await;
        }
        Ok(())
    }

    async fn connect(&self, console: Console, container: &Container) -> Result<()> {
        let terminal = console.terminal()?;
        let mut stdio = Stdio::default();
        stdio.connect(terminal, &self.ends, Owner::Exec).await?;
        stdio.begin(container.buffers())?;
        *lock(&self.life.stdio) = stdio;
        Ok(())
    }

    /// Waits for the end and reports it.
    async fn attend(self: Arc<Self>) {
        let Some(started) = self.started.get() else { return };
        let code = started.process.exited().await;
        let at = SystemTime::now();
        self.life.drain(DRAIN).await;
        let dropped_lines = lock(&self.life.stdio).dropped_lines();
        let oom_kills = self.place.get().map_or(0, SubPlace::oom_kills);
        self.life.end(Ended { code, at, oom_kills, dropped_lines });
    }

    /// Sends a signal; SIGKILL goes to everything the exec has started, also after its own end.
    pub(crate) async fn kill(&self, container: &Container, number: u32) -> Result<()> {
        let wanted = signal(number)?;
        let starting = self.life.phase() == Phase::Starting && self.started.get().is_none();
        if wanted == Signal::KILL && starting {
            // Whoever starts it gives it up: the runtime, which may hang, and what it has made.
            self.doomed.store(true, Ordering::Relaxed);
            self.doom.notify_one();
        }
        if !self.life.past_start(STARTED).await && wanted != Signal::KILL {
            return Err(Error::TimedOut { what: "start", id: self.id.clone(), limit: STARTED });
        }
        if self.doomed.load(Ordering::Relaxed) && self.started.get().is_none() {
            return Ok(());
        }
        let Some(started) = self.started.get() else {
            return Err(Error::state("signal", &self.id, "it has not been started"));
        };
        // Reaped, its number may be another process's already.
        let over = started.process.has_ended();
        if let (Some(guest), Some(pid)) = (container.guest(), started.guest) {
            return self.kill_guest(guest, pid, wanted).await;
        }
        if wanted == Signal::KILL {
            let killed = match self.place.get() {
                Some(place) => place.kill_all(&self.id).await?,
                None => Place::kill_tree(started.process.pid(), over),
            };
            if killed {
                return Ok(());
            }
        }
        if !over && started.process.signal(wanted)? {
            return Ok(());
        }
        Err(Error::NotFound { what: "running exec", id: self.id.clone() })
    }

    async fn kill_guest(&self, guest: &Guest, pid: u32, wanted: Signal) -> Result<()> {
        let killed = match wanted {
            Signal::KILL => guest.kill_tree(pid).await,
            other => guest.kill_process(pid, other).await,
        };
        match killed {
            Err(_) if self.life.ended().is_some() => {
                Err(Error::NotFound { what: "running exec", id: self.id.clone() })
            }
            done => done,
        }
    }

    /// Removes its cgroup if nothing is left in it; otherwise the container's end does. Answers the
    /// count of kills for want of memory that goes with it: v1 counts in each cgroup by itself.
    pub(crate) fn remove_place(&self) -> u64 {
        let Some(place) = self.place.get() else { return 0 };
        let kills = place.oom_kills();
        if place.remove_if_empty() { kills } else { 0 }
    }
}

/// Gives an exec its container's oom_score_adj where the runtime (crun 1.8) leaves it ours, which
/// is the best there is: the kernel would kill everybody else first.
fn share_oom_score(init: u32, exec: u32) {
    let file = |pid: &str| PathBuf::from(format!("/proc/{pid}/oom_score_adj"));
    let read = |pid: &str| berth_sys::small::read_number::<i16>(&file(pid)).ok();
    let (own, init, given) = (read("self"), read(&init.to_string()), read(&exec.to_string()));
    if let Some(score) = init
        && given == own
        && given != init
    {
        // A process that has ended already has no score to correct.
        let _ = std::fs::write(file(&exec.to_string()), score.to_string());
    }
}
