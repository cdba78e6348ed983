//! Going somewhere else: a thread that enters another process's namespaces.
//!
//! A thread can join a mount namespace only after it stopped sharing its working directory and
//! root with its siblings, and can never go back: so each visit is a thread of its own.

use std::fs::File;
use std::process::Child;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use nix::sched::{CloneFlags, setns, unshare};

/// The namespaces that a process lives in, held open.
#[derive(Debug)]
pub struct Place {
    mount: File,
    network: File,
    ipc: File,
    pid: File,
}

/// A process of a test inside a node. Killed and reaped on drop: an unreaped one would keep the
/// node's PID 1, and with it the test, from ending.
#[derive(Debug)]
pub struct Guest(pub Child);

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Place {
    /// The namespaces of a process (its children's PID namespace).
    ///
    /// # Errors
    /// If the process is gone.
    pub fn of(pid: u32) -> Result<Self> {
        let open = |name: &str| {
            let path = format!("/proc/{pid}/ns/{name}");
            File::open(&path).with_context(|| format!("open {path}"))
        };
        Ok(Self {
            mount: open("mnt")?,
            network: open("net")?,
            ipc: open("ipc")?,
            pid: open("pid_for_children")?,
        })
    }

    /// Runs `visit` inside on a thread of its own and returns what it returned. A process that
    /// it spawns lives there too.
    ///
    /// # Errors
    /// What `visit` returns, or if the namespaces cannot be entered.
    pub fn visit<T: Send>(&self, visit: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter()?;
                    visit()
                })
                .join()
                .map_err(|_| anyhow!("the thread inside the node's namespaces panicked"))?
        })
    }

    /// Starts a thread that stays in the network for as long as `stay` runs. It may start threads,
    /// which one that entered a PID namespace may not (clone(2), CLONE_THREAD).
    ///
    /// # Errors
    /// If the network cannot be entered.
    pub fn stay(&self, stay: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>> {
        let network = self.network.try_clone().context("keep the network open")?;
        Ok(thread::spawn(move || match setns(&network, CloneFlags::CLONE_NEWNET) {
            Ok(()) => stay(),
            Err(error) => panic!("enter the node's network: {error}"),
        }))
    }

    fn enter(&self) -> Result<()> {
        unshare(CloneFlags::CLONE_FS).context("unshare the file system context of a thread")?;
        setns(&self.pid, CloneFlags::CLONE_NEWPID).context("enter the PID namespace")?;
        setns(&self.network, CloneFlags::CLONE_NEWNET).context("enter the network namespace")?;
        setns(&self.ipc, CloneFlags::CLONE_NEWIPC).context("enter the IPC namespace")?;
        setns(&self.mount, CloneFlags::CLONE_NEWNS).context("enter the mount namespace")
    }
}
