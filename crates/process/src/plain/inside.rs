//! The other half of a launch: what happens in the process of a container or a command.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use berth_sys::mounts::{self, Propagation};
use berth_sys::namespace::{self, Furnishing, Namespace};
use berth_sys::{Signal, fdpass, signal};

use super::Shim;
use super::launch::read_plan;
use super::spec::{Bundle, Program};
use crate::error::{Error, Result};

/// The argument by which a shim's program knows that it is a container's process.
pub const VERB: &str = "inside";
/// The exit code of a program that could not be run, as shells have it.
const NOT_RUN: u8 = 127;

/// A process that has been told to start: it is in its cgroup and its namespaces, and its streams
/// are in place. It is still root.
#[derive(Debug)]
pub struct Inside {
    /// The container.
    pub bundle: Bundle,
    /// What to run.
    pub program: Program,
    /// Whether it is a command in a container that runs, and not the container's first process.
    pub command: bool,
    socket: UnixStream,
}

impl Inside {
    /// The program runs: whatever goes wrong from now on is its own end and not the start's. An exec
    /// says the same.
    pub fn started(&self) {
        // The shim is dead if it cannot be told.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Waits for the word to start. `None`: the shim has gone.
    fn receive() -> Result<Option<Self>> {
        let socket = rustix::stdio::stdin().try_clone_to_owned();
        let socket = UnixStream::from(socket.map_err(|e| Error::file("take over", "stdin", e))?);
        let (_, fds) = fdpass::receive(&socket, &mut [0])?;
        let mut fds = fds.into_iter();
        let (Some(stdin), Some(plan)) = (fds.next(), fds.next()) else { return Ok(None) };
        rustix::stdio::dup2_stdin(&stdin).map_err(|e| Error::file("take over", "stdin", e))?;
        drop(stdin);
        let inside = Self::prepare(plan, fds.next(), &socket);
        if let Err(error) = &inside {
            tell(&socket, error);
        }
        inside.map(Some)
    }

    fn prepare(
        plan: std::os::fd::OwnedFd,
        mount_namespace: Option<std::os::fd::OwnedFd>,
        socket: &UnixStream,
    ) -> Result<Self> {
        let plan = read_plan(plan)?;
        if plan.terminal {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())
                .map_err(|e| Error::file("take", "the terminal", e))?;
        }
        let bundle = Bundle::read(&plan.id, &plan.bundle)?;
        match mount_namespace {
            Some(namespace) => namespace::enter(namespace, Namespace::Mount)?,
            None => make_namespaces(&bundle)?,
        }
        let command = plan.command.is_some();
        let program = plan.command.unwrap_or_else(|| bundle.spec.process.clone());
        let socket = socket.try_clone().map_err(|e| Error::file("duplicate", "a socket", e))?;
        Ok(Self { bundle, program, command, socket })
    }
}

/// Those that the spec wants new; a PID namespace holds only children, and is the author's to make.
fn make_namespaces(bundle: &Bundle) -> Result<()> {
    let new = |kind: &str| {
        let named = |path: &std::path::Path| !path.as_os_str().is_empty();
        bundle.spec.linux.namespaces.iter().any(|entry| entry.kind == kind && !named(&entry.path))
    };
    let known = [
        ("network", Namespace::Net),
        ("ipc", Namespace::Ipc),
        ("uts", Namespace::Uts),
        ("cgroup", Namespace::Cgroup),
        ("mount", Namespace::Mount),
    ];
    let kinds: Vec<_> =
        known.into_iter().filter(|(name, _)| new(name)).map(|(_, kind)| kind).collect();
    let hostname = Some(bundle.spec.hostname.as_str()).filter(|name| !name.is_empty());
    namespace::make(
        &kinds,
        &Furnishing {
            hostname: hostname.filter(|_| kinds.contains(&Namespace::Uts)),
            sysctls: &Default::default(),
            loopback: kinds.contains(&Namespace::Net),
        },
    )?;
    if kinds.contains(&Namespace::Mount) {
        // What is mounted here is nobody else's.
        mounts::set_propagation("/", Propagation::Slave, true)?;
    }
    Ok(())
}

/// The main function of a container's process.
pub fn run_inside<S: Shim>() -> ExitCode {
    let inside = match Inside::receive() {
        Ok(Some(inside)) => inside,
        // The shim knows why, or is dead.
        Ok(None) | Err(_) => return ExitCode::from(NOT_RUN),
    };
    let Ok(socket) = inside.socket.try_clone() else { return ExitCode::from(NOT_RUN) };
    let outcome = match inside.bundle.is_sandbox() && !inside.command {
        true => pause(&inside),
        false => S::inside(inside),
    };
    match outcome {
        Ok(code) => {
            let _ = socket.shutdown(Shutdown::Both);
            ExitCode::from(code)
        }
        Err(error) => {
            tell(&socket, &error);
            ExitCode::from(NOT_RUN)
        }
    }
}

/// Why it did not start; if it had, to its own stderr.
fn tell(mut socket: &UnixStream, error: &Error) {
    if write!(socket, "{error}").is_err() {
        eprintln!("{error}");
    }
}

/// The pod itself where a daemon wants a container for it: it waits for its end.
fn pause(inside: &Inside) -> Result<u8> {
    let ends = [Signal::TERM, Signal::INT];
    signal::block(&ends)?;
    inside.started();
    signal::wait(&ends)?;
    Ok(0)
}
