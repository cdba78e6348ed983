//! A container in the sandbox of another one: guests of gVisor's kernel, and no process of ours.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_sys::Signal;
use tokio::sync::watch;

use crate::body::Kill;
use crate::bundle::Config;
use crate::console::Console;
use crate::container::{Container, ContainerRequest, Shared};
use crate::error::{Error, Result};
use crate::guest::Guest;
use crate::place::{Figures, Place};
use crate::process::{Ended, Life};
use crate::pump::lock;
use crate::reaper::UNKNOWN;
use crate::runtime::Streams;
use crate::stdio::Owner;

/// The code of what was killed, as shells show it.
pub(crate) const KILLED: u32 = 137;
/// How much later than what ran in it the death of a sandbox may be seen.
const SOON: Duration = Duration::from_secs(2);
/// How long a sandbox may take to kill what is left of a container.
const REST: Duration = Duration::from_secs(10);
/// How often a wait that was cut short is begun anew: whoever does that so often is no accident.
const WAITS: u32 = 5;

/// See the module.
#[derive(Debug)]
pub(crate) struct Joined {
    guest: Guest,
    sandbox: Arc<Container>,
    /// Nobody is in it; its limits are those that were asked for.
    place: Place,
    /// Its processes do not all end with its first one.
    shares_pids: bool,
    late: Mutex<Option<Late>>,
    ended: watch::Sender<Option<u32>>,
}

/// What it gets when it is started.
#[derive(Debug)]
pub(crate) struct Late {
    pub(crate) streams: Streams,
    pub(crate) console: Option<Console>,
}

impl Joined {
    pub(crate) async fn create(
        guest: Guest,
        late: Late,
        request: &ContainerRequest,
        shared: &Shared,
        config: &Config,
    ) -> Result<Self> {
        let Some(sandbox) = shared.sandbox.clone() else {
            return Err(Error::state("create", &request.id, "its sandbox is not there"));
        };
        let console = late.console.as_ref().map(Console::path);
        shared.runtime.create_guest(&request.id, &request.bundle, console).await?;
        let path = std::path::Path::new(&config.linux.cgroups_path);
        Ok(Self {
            guest,
            sandbox,
            place: Place::at(&shared.cgroups, path)?,
            shares_pids: config.namespace("pid").is_none_or(|pid| !pid.path.as_os_str().is_empty()),
            late: Mutex::new(Some(late)),
            ended: watch::Sender::new(None),
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.sandbox.pid()
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    pub(crate) fn guest(&self) -> &Guest {
        &self.guest
    }

    pub(crate) async fn figures(&self) -> Result<Figures> {
        self.guest.figures(self.place.version()).await
    }

    /// Starts it; only now it gets its streams, and gives its terminal.
    pub(crate) async fn start(&self, container: &Container) -> Result<()> {
        let (id, bundle) = (container.id(), container.bundle());
        let Some(Late { streams, console }) = lock(&self.late).take() else {
            return Err(Error::state("start", id, "it has been started before"));
        };
        container.runtime().start_guest(id, bundle, streams).await?;
        let Some(console) = console else { return Ok(()) };
        let life = container.life();
        let mut stdio = std::mem::take(&mut *lock(&life.stdio));
        stdio.connect(console.terminal()?, &container.request().ends, Owner::Container).await?;
        stdio.begin(container.buffers())?;
        *lock(&life.stdio) = stdio;
        Ok(())
    }

    /// Takes it for ended.
    pub(crate) fn end(&self, code: u32) {
        self.ended.send_if_modified(|ended| ended.is_none() && ended.replace(code).is_none());
    }

    pub(crate) async fn over(&self) {
        // The sender is ours: it does not go.
        let _ = self.ended.subscribe().wait_for(Option::is_some).await;
    }

    pub(crate) async fn exited(&self, life: &Life) -> u32 {
        let told = async {
            life.started().await;
            self.told().await
        };
        tokio::select! {
            code = told => self.end(code),
            () = self.over() => {}
            ended = self.sandbox.life().wait() => self.end(code_with(ended)),
        }
        *lock(&self.late) = None;
        self.ended.borrow().unwrap_or(UNKNOWN)
    }

    /// Asks how it has ended, which is answered when it has.
    async fn told(&self) -> u32 {
        for _ in 0..WAITS {
            if let Ok(code) = self.guest.wait().await {
                return code;
            }
            let ended = tokio::time::timeout(SOON, self.sandbox.life().wait()).await;
            if let Ok(ended) = ended {
                return code_with(ended);
            }
        }
        // It is not known how it ended, and so it is seen to that it has.
        let _ = self.guest.kill(Signal::KILL, true).await;
        UNKNOWN
    }

    /// See [`crate::body::Body::settle`]. The sandbox's kernel kills with the first process of a PID
    /// namespace all others in it.
    pub(crate) async fn settle(&self) -> u64 {
        if self.shares_pids && self.sandbox.life().ended().is_none() {
            // An error: nobody was left.
            let _ = tokio::time::timeout(REST, self.guest.kill(Signal::KILL, true)).await;
        }
        self.place.settle().await;
        // It was short of memory if the sandbox was.
        self.sandbox.life().ended().map_or(0, |ended| ended.oom_kills)
    }

    /// See [`crate::body::Body::kill`].
    pub(crate) async fn kill(&self, kill: Kill) -> Result<bool> {
        if self.ended.borrow().is_some() {
            return Ok(false);
        }
        if kill.unstarted {
            self.end(KILLED);
            return Ok(true);
        }
        if kill.paused && kill.signal == Signal::KILL {
            self.guest.resume().await?;
        }
        match self.guest.kill(kill.signal, kill.all).await {
            Ok(()) => Ok(true),
            Err(error) => match tokio::time::timeout(SOON, self.over()).await {
                Ok(()) => Ok(false),
                Err(_) => Err(error),
            },
        }
    }
}

/// The code of a container that ended with its sandbox.
fn code_with(sandbox: Option<Ended>) -> u32 {
    match sandbox {
        Some(ended) if ended.code == KILLED => KILLED,
        _ => UNKNOWN,
    }
}
