//! How a container's process or a command begins: everything about it that is not the author's.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_sys::Signal;
use berth_sys::fdpass;
use berth_sys::namespace::{self, Namespace};
use berth_sys::spawn::{Group, Spawn};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;

use super::inside::VERB;
use super::spec::{Bundle, Program};
use crate::command::memory_holding;
use crate::error::{Error, Result};
use crate::process::own_program;
use crate::pump::lock;
use crate::reaper::{Reaper, Watched};
use crate::runtime::Streams;

/// How long a program may take to be started: it may lie on a slow disk, or be compiled first.
const START: Duration = Duration::from_secs(60);
/// Of why it could not be started, this much is read.
const REASON: u64 = 4096;

/// What a process is told when it is started.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) id: String,
    pub(super) bundle: PathBuf,
    /// A command; otherwise the container's own program.
    pub(super) command: Option<Program>,
    pub(super) terminal: bool,
}

/// A process that is to be: streams, cgroup and namespaces are there, the program is the author's.
#[derive(Debug)]
pub struct Launch {
    pub(super) reaper: Arc<Reaper>,
    pub(super) plan: Plan,
    pub(super) program: Program,
    pub(super) streams: Streams,
    pub(super) cgroup: Vec<PathBuf>,
    pub(super) namespaces: Vec<(OwnedFd, Namespace)>,
    /// The mount namespace of the container that a command belongs to.
    pub(super) mounts: Option<OwnedFd>,
}

impl Launch {
    /// The pod's namespaces, by the paths in the spec.
    pub(super) fn pod_namespaces(bundle: &Bundle) -> Result<Vec<(OwnedFd, Namespace)>> {
        let mut open = Vec::new();
        for entry in &bundle.spec.linux.namespaces {
            let named = !entry.path.as_os_str().is_empty();
            let kind = match entry.kind.as_str() {
                "network" => Namespace::Net,
                "ipc" => Namespace::Ipc,
                "uts" => Namespace::Uts,
                "mount" => Namespace::Mount,
                "cgroup" => Namespace::Cgroup,
                // A new one of these is the author's to make, or not.
                "pid" if !named => continue,
                kind => {
                    return Err(Error::Unimplemented(format!(
                        "{}: this kind of container knows no {kind} namespaces that are shared or \
                         mapped",
                        bundle.id
                    )));
                }
            };
            if named {
                open.push((namespace::open(&entry.path)?, kind));
            }
        }
        Ok(open)
    }

    /// The namespaces of a container that runs.
    pub(super) fn namespaces_of(init: u32) -> Result<(Vec<(OwnedFd, Namespace)>, OwnedFd)> {
        let open = |kind: Namespace| namespace::open(format!("/proc/{init}/ns/{}", kind.file()));
        let mut all = Vec::new();
        for kind in [Namespace::Net, Namespace::Ipc, Namespace::Uts, Namespace::Cgroup] {
            all.push((open(kind)?, kind));
        }
        Ok((all, open(Namespace::Mount)?))
    }

    /// The program that is wanted.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Starts this very program again as the process: it waits for its start and then does what
    /// [`super::Shim::inside`] says.
    pub fn again(mut self) -> Result<Process> {
        let own = own_program()?;
        let (ours, theirs) = UnixStream::pair().map_err(|e| Error::file("make", "socket", e))?;
        ours.set_nonblocking(true).map_err(|e| Error::file("set up", "socket", e))?;
        let stdin = match self.streams[0].replace(theirs.into()) {
            Some(stdin) => stdin,
            None => null()?,
        };
        let what = || "the plan of a process".to_owned();
        let plan = serde_json::to_vec(&self.plan)
            .map_err(|source| Error::Json { what: what(), source })?;
        let start =
            Start { socket: ours, stdin, plan: memory_holding(&plan)?, mounts: self.mounts.take() };
        let child = self.spawn_as(Spawn::new(own).arg(VERB), Group::Session)?;
        *lock(&child.start) = Some(start);
        Ok(child)
    }

    /// Starts another program as the process, at once: one that waits for its start by itself.
    pub fn spawn(self, program: Spawn) -> Result<Process> {
        let group = if self.plan.terminal { Group::Terminal } else { Group::Session };
        self.spawn_as(program, group)
    }

    fn spawn_as(self, program: Spawn, group: Group) -> Result<Process> {
        let mut program = program.cwd("/").umask(0o022).group(group).cgroups(self.cgroup);
        let [stdin, stdout, stderr] = self.streams;
        if let Some(stdin) = stdin {
            program = program.stdin(stdin);
        }
        if let Some(stdout) = stdout {
            program = program.stdout(stdout);
        }
        if let Some(stderr) = stderr {
            program = program.stderr(stderr);
        }
        if let Some(score) = self.program.oom_score_adj {
            program = program.oom_score_adj(score);
        }
        for (namespace, kind) in self.namespaces {
            program = program.namespace(namespace, kind);
        }
        if self.program.no_new_privileges {
            program = program.no_new_privs();
        }
        let watched = Watched::child(&self.reaper, program.spawn()?)?;
        Ok(Process { watched, id: self.plan.id, start: Mutex::new(None) })
    }
}

fn null() -> Result<OwnedFd> {
    let null = std::fs::File::options().read(true).write(true).open("/dev/null");
    null.map(Into::into).map_err(|e| Error::file("open", "/dev/null", e))
}

/// What a process that waits is to be given.
#[derive(Debug)]
struct Start {
    socket: UnixStream,
    stdin: OwnedFd,
    plan: OwnedFd,
    mounts: Option<OwnedFd>,
}

/// The first process of a container, or a command.
#[derive(Debug)]
pub struct Process {
    watched: Watched,
    id: String,
    start: Mutex<Option<Start>>,
}

impl Process {
    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.watched.pid().as_raw_pid().cast_unsigned()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.watched.has_ended()
    }

    pub(super) fn raw_pid(&self) -> berth_sys::Pid {
        self.watched.pid()
    }

    /// Sends it a signal; one that has ended needs none.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.watched.signal(signal).map(drop)
    }

    /// Waits for its end: the exit code, or 128 + the signal.
    pub async fn exited(&self) -> u32 {
        self.watched.exited().await
    }

    /// Lets it begin; answers when its program runs, or with the reason why it cannot.
    pub async fn start(&self) -> Result<()> {
        let Some(start) = lock(&self.start).take() else { return Ok(()) };
        let mut fds: Vec<BorrowedFd<'_>> = vec![start.stdin.as_fd(), start.plan.as_fd()];
        fds.extend(start.mounts.as_ref().map(AsFd::as_fd));
        match fdpass::send(&start.socket, b"!", &fds) {
            // It has been killed: that is its end, and not ours to report.
            Err(error) if error.errno() == Some(rustix::io::Errno::PIPE.raw_os_error()) => {
                return Ok(());
            }
            sent => sent?,
        };
        let broken = |e| Error::file("read", "the socket of a process", e);
        let socket = tokio::net::UnixStream::from_std(start.socket).map_err(broken)?;
        let mut reason = Vec::new();
        let mut socket = socket.take(REASON);
        match tokio::time::timeout(START, socket.read_to_end(&mut reason)).await {
            Err(_) => Err(Error::TimedOut { what: "start", id: self.id.clone(), limit: START }),
            // Reset: killed meanwhile.
            Ok(_) if reason.is_empty() => Ok(()),
            Ok(_) => Err(Error::Runtime {
                runtime: std::env::current_exe().unwrap_or_default().display().to_string(),
                verb: "start",
                id: self.id.clone(),
                message: String::from_utf8_lossy(&reason).into_owned(),
            }),
        }
    }
}

/// The plan, as the process reads it.
pub(super) fn read_plan(fd: OwnedFd) -> Result<Plan> {
    let mut text = Vec::new();
    let mut file = std::fs::File::from(fd);
    file.read_to_end(&mut text).map_err(|e| Error::file("read", "the plan of a process", e))?;
    let what = || "the plan of a process".to_owned();
    serde_json::from_slice(&text).map_err(|source| Error::Json { what: what(), source })
}
