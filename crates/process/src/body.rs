//! What a container consists of, and how it is reached.
//!
//! | body | its processes | its end |
//! |---|---|---|
//! | native | the node's: init is a child of ours, a cgroup holds all of them | init's |
//! | sandbox | guests; the sandbox's own process is a child of ours, a cgroup holds what runs it | that process's, with init's code |
//! | joined | guests in the kernel of another container's sandbox; its cgroup is empty | `runsc wait` tells, or the sandbox ends |

use berth_sys::Signal;

use crate::bundle::Config;
use crate::console::Console;
use crate::container::{Container, ContainerRequest, Shared, socket};
use crate::error::{Error, Result};
use crate::guest::Guest;
use crate::joined::{Joined, KILLED, Late};
use crate::place::{Figures, Place};
use crate::process::{Life, Program};
use crate::pump::lock;
use crate::reaper::Watched;
use crate::stdio::{Owner, Stdio};

/// See the module.
#[derive(Debug)]
pub(crate) enum Body {
    Native(Native),
    Sandbox(Sandbox),
    Joined(Joined),
}

#[derive(Debug)]
pub(crate) struct Native {
    init: Watched,
    /// What init executes until the container's program takes its place.
    program: Option<Program>,
    place: Option<Place>,
    /// It was made of a checkpoint, and runs since then.
    restored: bool,
}

#[derive(Debug)]
pub(crate) struct Sandbox {
    process: Watched,
    guest: Guest,
    place: Option<Place>,
}

/// A signal, and to whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kill {
    pub(crate) signal: Signal,
    /// To all processes.
    pub(crate) all: bool,
    /// The container is frozen.
    pub(crate) paused: bool,
    /// Its program was never started.
    pub(crate) unstarted: bool,
}

impl Body {
    /// Makes the container, up to the start of its program.
    pub(crate) async fn create(
        request: &ContainerRequest,
        shared: &Shared,
        config: &Config,
    ) -> Result<(Self, Stdio)> {
        let (mut stdio, streams) = Stdio::open(&request.ends, Owner::Container).await?;
        let console = match request.ends.terminal {
            true => Some(Console::listen(socket(&shared.sockets, &request.id))?),
            false => None,
        };
        let guests = shared.runtime.flavour().has_guests();
        if guests && request.checkpoint.is_some() {
            let message = "a container in a gVisor sandbox is not made of a checkpoint";
            return Err(Error::Unimplemented(message.to_owned()));
        }
        let guest = || Guest::new(&shared.runtime, &request.id, &request.bundle);
        if guests && config.joins_a_sandbox() {
            let late = Late { streams, console };
            let joined = Joined::create(guest(), late, request, shared, config).await?;
            return Ok((Self::Joined(joined), stdio));
        }
        let path = console.as_ref().map(Console::path);
        let (id, bundle) = (request.id.as_str(), request.bundle.as_path());
        let init = match &request.checkpoint {
            None => shared.runtime.create(id, bundle, path, streams).await?,
            Some(images) => shared.runtime.restore((id, bundle), images, path, streams).await?,
        };
        if let Some(console) = console {
            stdio.connect(console.terminal()?, &request.ends, Owner::Container).await?;
        }
        let place = Place::of(&shared.cgroups, init.pid())?;
        let body = match guests {
            true => Self::Sandbox(Sandbox { process: init, guest: guest(), place }),
            false => {
                let restored = request.checkpoint.is_some();
                let program = Program::of(init.pid()).filter(|_| !restored);
                Self::Native(Native { init, program, place, restored })
            }
        };
        Ok((body, stdio))
    }

    /// The process of the node that it runs in.
    pub(crate) fn pid(&self) -> u32 {
        match self {
            Self::Native(native) => native.init.pid().as_raw_pid().cast_unsigned(),
            Self::Sandbox(sandbox) => sandbox.process.pid().as_raw_pid().cast_unsigned(),
            Self::Joined(joined) => joined.pid(),
        }
    }

    /// Its cgroup, by its name.
    pub(crate) fn place(&self) -> Option<&Place> {
        match self {
            Self::Native(native) => native.place.as_ref(),
            Self::Sandbox(sandbox) => sandbox.place.as_ref(),
            Self::Joined(joined) => Some(joined.place()),
        }
    }

    /// The cgroup that all its processes are in, if they are the node's.
    pub(crate) fn native_place(&self) -> Option<&Place> {
        match self {
            Self::Native(native) => native.place.as_ref(),
            Self::Sandbox(_) | Self::Joined(_) => None,
        }
    }

    /// It, as runsc knows it.
    pub(crate) fn guest(&self) -> Option<&Guest> {
        match self {
            Self::Native(_) => None,
            Self::Sandbox(sandbox) => Some(&sandbox.guest),
            Self::Joined(joined) => Some(joined.guest()),
        }
    }

    /// Whether execs begin as this program, too.
    pub(crate) fn is_runtime(&self, program: Program) -> bool {
        matches!(self, Self::Native(native) if native.program == Some(program))
    }

    /// Starts the program; answers when it has taken the runtime's place.
    pub(crate) async fn start(&self, container: &Container) -> Result<()> {
        lock(&container.life().stdio).begin(container.buffers())?;
        let (id, bundle) = (container.id(), container.bundle());
        match self {
            Self::Native(native) if native.restored => Ok(()),
            Self::Native(native) => {
                container.runtime().start(id, bundle).await?;
                if let Some(program) = native.program {
                    program.replaced(native.init.pid()).await;
                }
                Ok(())
            }
            Self::Sandbox(_) => container.runtime().start(id, bundle).await,
            Self::Joined(joined) => joined.start(container).await,
        }
    }

    /// Ends what could not be started, and can never be started again.
    pub(crate) fn give_up(&self) {
        match self {
            Self::Native(Native { init: process, .. }) | Self::Sandbox(Sandbox { process, .. }) => {
                // If it is gone, that is what was wanted.
                let _ = process.signal(Signal::KILL);
            }
            Self::Joined(joined) => joined.end(KILLED),
        }
    }

    /// Waits until it has ended or is about to.
    pub(crate) async fn over(&self) {
        match self {
            Self::Native(Native { init: process, .. }) | Self::Sandbox(Sandbox { process, .. }) => {
                process.over().await;
            }
            Self::Joined(joined) => joined.over().await,
        }
    }

    /// Waits for its end and sees that it is one; its exit code.
    pub(crate) async fn exited(&self, life: &Life) -> u32 {
        match self {
            Self::Native(Native { init: process, .. }) | Self::Sandbox(Sandbox { process, .. }) => {
                process.exited().await
            }
            Self::Joined(joined) => joined.exited(life).await,
        }
    }

    /// Kills what is left of it when init has ended, and sees it gone. Answers how many were killed
    /// for want of memory; `None` if its cgroup is gone.
    pub(crate) async fn settle(&self) -> Option<u64> {
        if let Self::Joined(joined) = self {
            return Some(joined.settle().await);
        }
        let Some(place) = self.place() else { return Some(0) };
        place.settle().await;
        place.counted()
    }

    /// Sends a signal to init, or to all. False if init has ended.
    pub(crate) async fn kill(&self, kill: Kill) -> Result<bool> {
        match self {
            Self::Native(native) => native.kill(kill),
            Self::Sandbox(sandbox) => sandbox.kill(kill).await,
            Self::Joined(joined) => joined.kill(kill).await,
        }
    }

    /// Which processes of the node are left of it, if any.
    pub(crate) fn survivors(&self) -> Option<String> {
        self.place().and_then(Place::survivors)
    }

    /// The pids of its processes, as the kernel that they run in knows them.
    pub(crate) async fn pids(&self) -> Result<Vec<u32>> {
        match (self.guest(), self.place()) {
            (Some(guest), _) => guest.pids().await,
            (None, Some(place)) => place.pids(),
            (None, None) => Ok(vec![self.pid()]),
        }
    }

    /// What is counted of it. `None`: nothing is.
    pub(crate) async fn figures(&self) -> Result<Option<Figures>> {
        match self {
            Self::Joined(joined) => joined.figures().await.map(Some),
            Self::Native(_) | Self::Sandbox(_) => self.place().map(Place::figures).transpose(),
        }
    }
}

impl Native {
    fn kill(&self, kill: Kill) -> Result<bool> {
        let alive = self.init.signal(kill.signal)?;
        match &self.place {
            // Frozen processes of v1 take even SIGKILL only when they are thawed.
            Some(place) if kill.signal == Signal::KILL && (kill.all || kill.paused) => {
                place.strike();
            }
            Some(place) if kill.all => place.signal_others(kill.signal, self.init.pid()),
            _ => {}
        }
        Ok(alive)
    }
}

impl Sandbox {
    async fn kill(&self, kill: Kill) -> Result<bool> {
        // Whatever else is in the sandbox ends with its root container.
        if kill.signal == Signal::KILL {
            return self.process.signal(kill.signal);
        }
        match self.guest.kill(kill.signal, kill.all).await {
            Ok(()) => Ok(true),
            Err(_) if self.process.has_ended() => Ok(false),
            Err(error) => Err(error),
        }
    }
}
