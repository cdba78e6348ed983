//! The keeper: PID 1 of a node under test.
//!
//! It owns the node's namespaces, so that a daemon that died can be started again in the same
//! ones, adopts orphans, and ends when its stdin does: with it the kernel ends everything
//! inside, whatever happened to the test.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::guest::Driver;

/// What a keeper is told on its command line: the node's directory on disk.
#[derive(Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout below this directory.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Where the node's own files live on the real disk.
    #[must_use]
    pub fn disk(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Makes the directories that the keeper mounts.
    ///
    /// # Errors
    /// If one cannot be made.
    pub fn create(&self) -> Result<()> {
        for name in ["etc", "etc.work", "lib", "lib.work", "berth", "cni", "proc", "log", "pods"] {
            let path = self.disk(name);
            fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        }
        if self.disk("boot_id").exists() { Ok(()) } else { self.new_boot() }
    }

    /// Writes another boot id, for the next start of the keeper.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn new_boot(&self) -> Result<()> {
        let fresh = fs::read_to_string("/proc/sys/kernel/random/uuid").context("a fresh uuid")?;
        fs::write(self.disk("boot_id"), fresh).context("write the boot id")
    }
}

/// Runs as PID 1 of fresh mount, network and PID namespaces until stdin ends.
///
/// # Errors
/// If the node's mounts cannot be made.
pub fn run(root: &Path) -> Result<()> {
    furnish(&Layout::new(root))?;
    // Blocked before any thread exists, so that only the wait below takes it.
    let mut child = SigSet::empty();
    child.add(Signal::SIGCHLD);
    child.thread_block().context("block SIGCHLD")?;
    std::io::stdout().write_all(b"ready\n").context("say that the node is ready")?;
    std::thread::spawn(|| {
        let mut end = Vec::new();
        let _ = std::io::stdin().read_to_end(&mut end);
        std::process::exit(0);
    });
    loop {
        while waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG))
            .is_ok_and(|status| status != WaitStatus::StillAlive)
        {}
        child.wait().context("wait for SIGCHLD")?;
    }
}

fn furnish(layout: &Layout) -> Result<()> {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    change("/", private)?;
    // Mount propagation into containers needs a shared root, as systemd makes it.
    change("/", MsFlags::MS_REC | MsFlags::MS_SHARED)?;
    attach("proc", "proc", Path::new("/proc"), "")?;
    // A second proc that nothing is mounted over: the kernel lets a user namespace mount proc
    // only if one such is in sight, and boot_id gets a bind mount of its own.
    attach("proc", "proc", &layout.disk("proc"), "")?;
    run_directory(layout)?;
    cover_unified()?;
    for (name, target) in [("etc", "/etc"), ("lib", "/var/lib")] {
        let options = format!(
            "lowerdir={target},upperdir={},workdir={}",
            layout.disk(name).display(),
            layout.disk(&format!("{name}.work")).display()
        );
        attach("overlay", "overlay", Path::new(target), &options)?;
    }
    for (name, target) in [("berth", "/var/lib/berth"), ("cni", "/var/lib/cni")] {
        fs::create_dir_all(target).with_context(|| format!("create {target}"))?;
        bind(&layout.disk(name), Path::new(target))?;
    }
    fs::create_dir_all("/run/netns").context("create /run/netns")?;
    // Debian's /var/lock and iptables' lock live in /run.
    fs::create_dir_all("/run/lock").context("create /run/lock")?;
    bind(&layout.disk("boot_id"), Path::new("/proc/sys/kernel/random/boot_id"))
}

/// A `/run` of the node's own. Where the machine's systemd makes its cgroups, with the ways to it.
fn run_directory(layout: &Layout) -> Result<()> {
    let ways = match Driver::of_tests() {
        Driver::Systemd => &["systemd", "dbus"][..],
        Driver::Cgroupfs => &[],
    };
    for way in ways {
        let kept = layout.disk(&format!("run.{way}"));
        fs::create_dir_all(&kept).with_context(|| format!("create {}", kept.display()))?;
        bind(&Path::new("/run").join(way), &kept)?;
    }
    attach("tmpfs", "tmpfs", Path::new("/run"), "mode=755")?;
    for way in ways {
        let at = Path::new("/run").join(way);
        fs::create_dir(&at).with_context(|| format!("create {}", at.display()))?;
        bind(&layout.disk(&format!("run.{way}")), &at)?;
    }
    Ok(())
}

/// Covers a unified hierarchy that stands beside v1 ones with a private tmpfs: crun refuses such
/// a mixture, and without anything there it would write plain directories into the machine's own
/// cgroup tmpfs.
fn cover_unified() -> Result<()> {
    let unified = Path::new("/sys/fs/cgroup/unified");
    if unified.exists() { attach("tmpfs", "tmpfs", unified, "mode=755") } else { Ok(()) }
}

fn attach(kind: &str, source: &str, target: &Path, options: &str) -> Result<()> {
    let flags = match kind {
        "overlay" => MsFlags::empty(),
        _ => MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
    };
    // netns pins and sockets live in /run; nothing there is executed, but bundles mount rootfs.
    let flags = if target == Path::new("/run") { MsFlags::MS_NOSUID } else { flags };
    mount(Some(source), target, Some(kind), flags, Some(options))
        .with_context(|| format!("mount {kind} on {}", target.display()))
}

fn bind(source: &Path, target: &Path) -> Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("bind {} on {}", source.display(), target.display()))
}

fn change(target: &str, flags: MsFlags) -> Result<()> {
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("change the propagation of {target}"))
}
