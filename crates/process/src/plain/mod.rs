//! Containers without an OCI runtime: what a shim's author writes is how a container's process comes
//! to be ([`Shim`]); streams, logs, cgroups, states and ends are done here.
//!
//! ```text
//!  Simple ─▶ Container ─▶ Shim (the author's) ─▶ Launch ─▶ Process
//!   (all of     │  ├───▶ cgroup: limits, figures, freezing, death            │ fork, exec of this
//!    a pod)     │  └───▶ Stdio ─▶ Pump ─▶ LogFile                            ▼ very program
//!               └▶ Exec                                          Shim::inside (the author's)
//! ```
//!
//! A container's process is the shim's own program once more, in the container's cgroup and the
//! pod's namespaces, which waits for its start and then becomes what the author makes of it.

mod container;
mod exec;
mod inside;
mod launch;
mod simple;
mod spec;

use std::future::{Future, ready};
use std::path::Path;

use berth_sys::Signal;

use crate::error::{Error, Result};

pub use inside::{Inside, VERB, run_inside};
pub use launch::{Launch, Process};
pub use simple::Simple;
pub use spec::{Bundle, Mount, Program, Spec, User};

/// A kind of container: what the author of a shim implements.
///
/// Each call is made once for each thing, in its order (create, start, wait; delete after the end);
/// repeats and wrong orders are answered before they come here.
pub trait Shim: Default + Send + Sync + 'static {
    /// The name of the runtime type: `io.containerd.NAME.v1` for the program
    /// `containerd-shim-NAME-v1`.
    const NAME: &'static str;

    /// Makes a container whose program does not run yet; answers its first process. Its root file
    /// system is mounted, and its cgroup has its limits. [`Launch::again`] makes the process that
    /// [`Shim::inside`] is about.
    fn create(
        &self,
        bundle: &Bundle,
        launch: Launch,
    ) -> impl Future<Output = Result<Process>> + Send;

    /// What a process that [`Launch::again`] has made does once it is started: it becomes the program
    /// of `inside`, or does its work itself and answers its exit code. An error before
    /// [`Inside::started`] or an exec is the error of the start.
    fn inside(inside: Inside) -> Result<u8>;

    /// Starts the program of a container or of a command.
    fn start(&self, process: &Process) -> impl Future<Output = Result<()>> + Send {
        process.start()
    }

    /// Sends a signal. Of SIGKILL, what else runs in the container dies without this.
    fn kill(&self, process: &Process, signal: Signal) -> impl Future<Output = Result<()>> + Send {
        ready(process.signal(signal))
    }

    /// Waits for the end; the exit code, or 128 + the signal.
    fn wait(&self, process: &Process) -> impl Future<Output = u32> + Send {
        process.exited()
    }

    /// Makes one more process in a container that runs: a command, which is not started yet.
    fn exec(
        &self,
        bundle: &Bundle,
        launch: Launch,
    ) -> impl Future<Output = Result<Process>> + Send {
        drop(launch);
        let message = format!("{} runs no commands in its containers ({})", Self::NAME, bundle.id);
        ready(Err(Error::Unimplemented(message)))
    }

    /// Removes what `create` made beside processes, mount and cgroup. Also called for a container
    /// whose shim has died, by another process, and for one that was never made.
    fn delete(&self, bundle: &Bundle) -> impl Future<Output = Result<()>> + Send {
        let _ = bundle;
        ready(Ok(()))
    }

    /// Makes what the pod itself needs, in `bundle`; `netns` is empty on the node's network. Without
    /// this a pod needs no process.
    fn start_sandbox(
        &self,
        bundle: &Path,
        netns: &Path,
    ) -> impl Future<Output = Result<()>> + Send {
        let _ = (bundle, netns);
        ready(Ok(()))
    }

    /// Unmakes that again, after the end of the containers.
    fn stop_sandbox(&self) -> impl Future<Output = Result<()>> + Send {
        ready(Ok(()))
    }
}
