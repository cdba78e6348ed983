//! The parent's half: everything a child will need, made before the clone.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::Pid;

use super::child::Child;
use super::{Group, Spawn, Stage, vfork};
use crate::error::{Error, Result};
use crate::namespace::Namespace;
use crate::signal::Signal;

/// What the child reads, all in memory it shares with the parent, and what it writes: `moved` and
/// the report. Atomics, because both sides see them; never at the same time.
pub(super) struct Plan {
    pub(super) program: CString,
    pub(super) argv: Pointers,
    pub(super) envp: Pointers,
    pub(super) cwd: Option<CString>,
    pub(super) cgroups: Vec<CString>,
    pub(super) group: Group,
    pub(super) oom_score_adj: Option<CString>,
    pub(super) parent_death: Option<Signal>,
    pub(super) parent: i32,
    pub(super) namespaces: Vec<(OwnedFd, Namespace)>,
    pub(super) umask: Option<u32>,
    pub(super) no_new_privs: bool,
    pub(super) descriptors: Vec<Descriptor>,
    pub(super) report: Report,
}

/// A descriptor of the parent and the number the child shall see it under.
pub(super) struct Descriptor {
    pub(super) source: OwnedFd,
    pub(super) target: i32,
    pub(super) moved: AtomicI32,
}

/// How far the child came, written by the child.
#[derive(Default)]
pub(super) struct Report {
    pub(super) stage: AtomicU32,
    pub(super) index: AtomicU32,
    pub(super) errno: AtomicI32,
}

/// A NULL-terminated array of C strings, as execve(2) wants it.
pub(super) struct Pointers {
    _strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl Pointers {
    fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect();
        Self { _strings: strings, pointers }
    }

    pub(super) fn as_ptr(&self) -> *const *const libc::c_char {
        self.pointers.as_ptr()
    }
}

impl Plan {
    pub(super) fn new(spawn: Spawn) -> Result<Self> {
        let program = find_program(spawn.program)?;
        let mut argv = vec![text("program", program.as_os_str())?];
        for arg in &spawn.args {
            argv.push(text("argument", arg)?);
        }
        let mut envp = Vec::with_capacity(spawn.env.len());
        for (name, value) in &spawn.env {
            let joined = [name.as_bytes(), b"=", value.as_bytes()].concat();
            envp.push(text("environment variable", &OsString::from_vec(joined))?);
        }
        let cgroups = spawn.cgroups.iter().map(|path| text("cgroup file", path.as_os_str()));
        Ok(Self {
            program: argv[0].clone(),
            argv: Pointers::new(argv),
            envp: Pointers::new(envp),
            cwd: spawn.cwd.map(|dir| text("working directory", dir.as_os_str())).transpose()?,
            cgroups: cgroups.collect::<Result<_>>()?,
            group: spawn.group,
            oom_score_adj: spawn
                .oom_score_adj
                .map(|value| text("oom_score_adj", OsStr::new(&value.to_string())))
                .transpose()?,
            parent_death: spawn.parent_death,
            parent: rustix::process::getpid().as_raw_pid(),
            namespaces: spawn.namespaces,
            umask: spawn.umask,
            no_new_privs: spawn.no_new_privs,
            descriptors: descriptors(spawn.stdio, spawn.inherit)?,
            report: Report::default(),
        })
    }

    /// Clones, and waits for the child's exec.
    pub(super) fn run(self) -> Result<Child> {
        let stack = Stack::new().map_err(|source| self.error(Stage::Clone, 0, source))?;
        let cloned = {
            let _blocked = Blocked::all();
            self.clone_onto(&stack)
        };
        let (pid, pidfd) = cloned.map_err(|source| self.error(Stage::Clone, 0, source))?;
        let mut child = Child::new(pid, pidfd);
        let errno = self.report.errno.load(Ordering::Acquire);
        if errno == 0 {
            // Killed before its exec reads the same: its wait status tells.
            return Ok(child);
        }
        // It is past its last instruction but one: this wait is short. A reaper of this process
        // may have been faster, which is as good.
        let _ = child.wait(std::time::Duration::from_secs(10));
        let stage = self.report.stage.load(Ordering::Acquire) as usize;
        let stage = Stage::ALL.get(stage).copied().unwrap_or(Stage::Exec);
        let index = self.report.index.load(Ordering::Acquire) as usize;
        Err(self.error(stage, index, io::Error::from_raw_os_error(errno)))
    }

    fn clone_onto(&self, stack: &Stack) -> io::Result<(Pid, OwnedFd)> {
        let mut pidfd: libc::c_int = -1;
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
        // SAFETY: CLONE_VFORK suspends this thread until the child has execed or exited, so
        // `self`, `stack` and `pidfd` outlive the child's use of them; `stack.top()` is the
        // 16-byte aligned end of a mapping of its own with a guard page below. All signals are
        // blocked, so no handler of this process can run in the child. Without CLONE_SIGHAND
        // and CLONE_FILES the child's handlers and descriptors are copies. `vfork::main` never
        // returns into Rust frames of the parent, allocates, locks or panics. With CLONE_PIDFD
        // the parent_tid argument receives the pidfd.
        #[allow(unsafe_code)]
        let pid = unsafe {
            libc::clone(
                vfork::main,
                stack.top(),
                flags,
                ptr::from_ref(self).cast_mut().cast(),
                &raw mut pidfd,
                ptr::null_mut::<libc::c_void>(),
                ptr::null_mut::<libc::c_int>(),
            )
        };
        let Some(pid) = (pid > 0).then(|| Pid::from_raw(pid)).flatten() else {
            return Err(io::Error::last_os_error());
        };
        // SAFETY: clone succeeded with CLONE_PIDFD, so the kernel stored a new descriptor that
        // nobody else owns.
        #[allow(unsafe_code)]
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok((pid, pidfd))
    }

    fn error(&self, stage: Stage, index: usize, source: io::Error) -> Error {
        let text = |text: &CString| text.to_string_lossy().into_owned();
        let detail = match stage {
            Stage::Cgroup => self.cgroups.get(index).map(text),
            Stage::Directory => self.cwd.as_ref().map(text),
            Stage::Namespace => {
                self.namespaces.get(index).map(|(_, kind)| format!("({})", kind.file()))
            }
            _ => None,
        };
        let detail = detail.map(|detail| format!(" {detail}")).unwrap_or_default();
        Error::Spawn { program: self.program.to_string_lossy().into_owned(), stage, detail, source }
    }
}

fn text(what: &'static str, value: &OsStr) -> Result<CString> {
    CString::new(value.as_bytes()).map_err(|_| Error::Argument {
        what,
        value: value.to_string_lossy().into_owned(),
        reason: "holds a NUL byte",
    })
}

/// A bare name is looked up on PATH here: execvp(3) would do it in the child, with allocations.
fn find_program(program: PathBuf) -> Result<PathBuf> {
    if program.as_os_str().as_bytes().contains(&b'/') {
        return Ok(program);
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    std::env::split_paths(&path)
        .map(|dir| dir.join(&program))
        .find(|file| {
            file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
        })
        .ok_or_else(|| Error::Spawn {
            program: program.display().to_string(),
            stage: Stage::Exec,
            detail: " on PATH".to_owned(),
            source: io::Error::from_raw_os_error(libc::ENOENT),
        })
}

fn descriptors(
    stdio: [Option<OwnedFd>; 3],
    inherit: Vec<(OwnedFd, i32)>,
) -> Result<Vec<Descriptor>> {
    let null = || {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY;
        rustix::fs::openat(CWD, "/dev/null", flags, Mode::empty())
            .map_err(|errno| Error::path("open", "/dev/null", errno))
    };
    let mut all = Vec::with_capacity(3 + inherit.len());
    for (fd, target) in stdio.into_iter().zip(0..) {
        let source = fd.map_or_else(null, Ok)?;
        all.push(Descriptor { source, target, moved: AtomicI32::new(-1) });
    }
    for (source, target) in inherit {
        let taken = all.iter().any(|d| d.target == target);
        // The upper bound keeps the child from counting beyond an i32, and from any usual limit.
        if !(3..1 << 16).contains(&target) || taken {
            return Err(Error::Argument {
                what: "descriptor number for the child",
                value: target.to_string(),
                reason: if taken { "is given twice" } else { "must be from 3 to 65535" },
            });
        }
        all.push(Descriptor { source, target, moved: AtomicI32::new(-1) });
    }
    Ok(all)
}

impl Descriptor {
    pub(super) fn raw(&self) -> i32 {
        self.source.as_raw_fd()
    }
}

/// All signals blocked in this thread, until dropped.
struct Blocked(libc::sigset_t);

impl Blocked {
    fn all() -> Self {
        // SAFETY: sigset_t is plain data; sigfillset and pthread_sigmask only write to the sets
        // they are given. Blocking is undone by `drop` on the same thread (the type is used in
        // one scope, and a sigset_t in it moves nothing between threads).
        #[allow(unsafe_code)]
        unsafe {
            let mut every: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut every);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const every, &raw mut before);
            Self(before)
        }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: the set was filled by pthread_sigmask in `all`.
        #[allow(unsafe_code)]
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, ptr::null_mut());
        }
    }
}

/// A stack for the child: 64 KiB above a page that must not be touched.
struct Stack {
    base: *mut libc::c_void,
}

impl Stack {
    const GUARD: usize = 4096;
    const SIZE: usize = 64 * 1024 + Self::GUARD;

    fn new() -> io::Result<Self> {
        // SAFETY: a new private anonymous mapping overlaps nothing that exists; the mprotect is
        // within it, on its lowest page (pages larger than 4096 make it fail, which is reported).
        #[allow(unsafe_code)]
        unsafe {
            let base = libc::mmap(
                ptr::null_mut(),
                Self::SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK,
                -1,
                0,
            );
            if base == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let stack = Self { base };
            if libc::mprotect(base, Self::GUARD, libc::PROT_NONE) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(stack)
        }
    }

    fn top(&self) -> *mut libc::c_void {
        self.base.wrapping_byte_add(Self::SIZE)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: `base` and SIZE are what mmap gave; the child that used it has execed or exited
        // (CLONE_VFORK), so nobody stands on it.
        #[allow(unsafe_code)]
        unsafe {
            libc::munmap(self.base, Self::SIZE);
        }
    }
}
