//! Starting a program the way vfork does: no copy of the parent's page tables, whatever its size.
//!
//! The child borrows the parent's memory until its exec and runs on a stack of its own, so it does
//! only what needs no lock and no allocation: every string is made before the clone, and a
//! failure comes back through memory as the stage that was reached and the error number.
//!
//! ```text
//!  parent                                  child (same memory, own stack, own fd table)
//!  prepare strings, block signals
//!  clone(VM|VFORK|PIDFD) ──────────────▶   default handlers, session, cgroups, oom score,
//!  (this thread waits)                     namespaces, umask, cwd, descriptors, terminal
//!  read stage and errno  ◀──────────────   unblock signals, exec — or note errno and exit
//!  restore signals
//! ```

mod child;
mod exit;
mod plan;
mod vfork;

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::namespace::Namespace;
use crate::signal::Signal;

pub use child::Child;
pub use exit::Exit;
use plan::Plan;

/// Where the child belongs among process groups and sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Group {
    /// The parent's process group and session.
    #[default]
    Inherit,
    /// A process group of its own, so that it can be killed with all it starts.
    Own,
    /// A session (and process group) of its own, without a controlling terminal.
    Session,
    /// A session of its own whose controlling terminal is the child's stdin.
    Terminal,
}

/// How far a child that failed before its exec came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Stage {
    /// The process could not be made at all.
    Clone = 0,
    /// The process group or session.
    Group,
    /// Entering a cgroup.
    Cgroup,
    /// Writing oom_score_adj.
    OomScore,
    /// Entering a namespace.
    Namespace,
    /// Changing to the working directory.
    Directory,
    /// Putting descriptors in their places.
    Descriptors,
    /// Taking the controlling terminal.
    Terminal,
    /// Privileges: no_new_privs, the parent-death signal.
    Privileges,
    /// The exec itself.
    Exec,
}

impl Stage {
    const ALL: [Self; 10] = [
        Self::Clone,
        Self::Group,
        Self::Cgroup,
        Self::OomScore,
        Self::Namespace,
        Self::Directory,
        Self::Descriptors,
        Self::Terminal,
        Self::Privileges,
        Self::Exec,
    ];
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Clone => "clone",
            Self::Group => "make its process group or session",
            Self::Cgroup => "enter its cgroup",
            Self::OomScore => "write oom_score_adj",
            Self::Namespace => "enter a namespace",
            Self::Directory => "change to the working directory",
            Self::Descriptors => "place file descriptors",
            Self::Terminal => "take the controlling terminal",
            Self::Privileges => "limit privileges",
            Self::Exec => "exec",
        })
    }
}

/// What one child process is to be. Nothing is inherited but what is said here: the environment is
/// complete, stdio defaults to /dev/null, and other descriptors stay behind.
#[derive(Debug)]
pub struct Spawn {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    cwd: Option<PathBuf>,
    stdio: [Option<OwnedFd>; 3],
    inherit: Vec<(OwnedFd, i32)>,
    cgroups: Vec<PathBuf>,
    group: Group,
    oom_score_adj: Option<i16>,
    parent_death: Option<Signal>,
    namespaces: Vec<(OwnedFd, Namespace)>,
    umask: Option<u32>,
    no_new_privs: bool,
}

impl Spawn {
    /// A child that runs `program`; a name without a slash is looked up on this process's PATH
    /// when [`Spawn::spawn`] is called.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            cwd: None,
            stdio: [None, None, None],
            inherit: Vec::new(),
            cgroups: Vec::new(),
            group: Group::Inherit,
            oom_score_adj: None,
            parent_death: None,
            namespaces: Vec::new(),
            umask: None,
            no_new_privs: false,
        }
    }

    /// The program as given.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Adds an argument (the program's own name is argument 0 already).
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Adds one variable to the environment, which is empty at first.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Adds variables to the environment.
    pub fn envs(
        mut self,
        vars: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>,
    ) -> Self {
        self.env
            .extend(vars.into_iter().map(|(n, v)| (n.as_ref().to_owned(), v.as_ref().to_owned())));
        self
    }

    /// The working directory; otherwise that of the parent. A relative program path counts from it.
    pub fn cwd(mut self, dir: impl Into<PathBuf>) -> Self {
        self.cwd = Some(dir.into());
        self
    }

    /// Stdin; otherwise /dev/null.
    pub fn stdin(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.stdio[0] = Some(fd.into());
        self
    }

    /// Stdout; otherwise /dev/null.
    pub fn stdout(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.stdio[1] = Some(fd.into());
        self
    }

    /// Stderr; otherwise /dev/null.
    pub fn stderr(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.stdio[2] = Some(fd.into());
        self
    }

    /// Hands over one more descriptor, which the child sees as number `target` (3 or above).
    pub fn inherit(mut self, fd: impl Into<OwnedFd>, target: i32) -> Self {
        self.inherit.push((fd.into(), target));
        self
    }

    /// Adds cgroups that the child enters before its exec, by writing `0` to each of these files:
    /// `tasks` on v1, `cgroup.procs` on v2. On v1 that is some 70 times cheaper than moving it
    /// from outside. A frozen cgroup stops the child, and with it the calling thread.
    pub fn cgroups(mut self, files: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        self.cgroups.extend(files.into_iter().map(Into::into));
        self
    }

    /// Process group or session of the child.
    pub fn group(mut self, group: Group) -> Self {
        self.group = group;
        self
    }

    /// The child's oom_score_adj (-1000 to 1000). Going below the inherited minimum without
    /// CAP_SYS_RESOURCE fails the spawn: clamp it before.
    pub fn oom_score_adj(mut self, value: i16) -> Self {
        self.oom_score_adj = Some(value);
        self
    }

    /// The signal the child gets when the *thread* that spawned it ends: of use only from a thread
    /// that lives as long as the process.
    pub fn parent_death_signal(mut self, signal: Signal) -> Self {
        self.parent_death = Some(signal);
        self
    }

    /// Adds a namespace to enter, in the order given (the user namespace first, where its
    /// privileges are needed for the others). A PID namespace would hold only the child's
    /// children, and a time namespace cannot be entered while memory is shared.
    pub fn namespace(mut self, fd: impl Into<OwnedFd>, kind: Namespace) -> Self {
        self.namespaces.push((fd.into(), kind));
        self
    }

    /// The file creation mask.
    pub fn umask(mut self, mask: u32) -> Self {
        self.umask = Some(mask);
        self
    }

    /// Sets `no_new_privs` before the exec.
    pub fn no_new_privs(mut self) -> Self {
        self.no_new_privs = true;
        self
    }

    /// Starts it. Returns once the child has execed, with its pidfd (Linux 5.2).
    ///
    /// The calling thread waits for the child's exec: under a millisecond, unless the program
    /// lies on a file system that does not answer. The descriptors given are closed here.
    ///
    /// # Errors
    /// [`crate::Error::Spawn`] with the stage that failed; the failed child has been reaped.
    pub fn spawn(self) -> Result<Child> {
        Plan::new(self)?.run()
    }
}
