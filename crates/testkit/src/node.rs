//! A node under test: namespaces, a cgroup parent and a disk of its own, and a daemon in them.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::config::Config;
use crate::cri::Cri;
use crate::guest::Driver;
use crate::keeper::Layout;
use crate::network::{self, Subnet};
use crate::parent::Parent;
use crate::patience;
use crate::place::Place;
use crate::registry::{Access, Registry};
use crate::slot::Slot;

/// How long the daemon may take to answer after its start, or to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(20);
/// Where the disks of nodes are: not on a tmpfs, and with room.
const DISKS: &str = "/var/tmp";
/// The port of the open registry on the node's loopback.
pub const REGISTRY_PORT: u16 = 5000;

/// A node; everything it holds goes when it is dropped.
#[derive(Debug)]
pub struct Node {
    // Dropped in this order: processes, then cgroups, then the disk, then the slot.
    daemon: Option<Child>,
    registry: Option<Registry>,
    keeper: Option<Keeper>,
    parent: Parent,
    disk: TempDir,
    config: Config,
    slot: Slot,
}

/// Removes the disks and cgroups of nodes whose test was killed before it could.
fn sweep() {
    for entry in fs::read_dir(DISKS).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if crate::parent::abandoned(&name) {
            // Its processes died with it; what is mounted was mounted in namespaces that are gone.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    crate::parent::sweep();
}

/// PID 1 of the node.
#[derive(Debug)]
struct Keeper {
    child: Child,
    _stdin: ChildStdin,
    place: Place,
}

impl Node {
    /// A node without a daemon: namespaces, mounts, network, configuration.
    ///
    /// # Errors
    /// If the machine lacks something; the message says what.
    pub fn prepare(config: Config) -> Result<Self> {
        Self::prepare_in(Slot::take()?, config)
    }

    /// As [`Node::prepare`], in the slot of this one: for nodes that take turns.
    ///
    /// # Errors
    /// As there.
    pub fn beside(&self, config: Config) -> Result<Self> {
        Self::prepare_in(self.slot.clone(), config)
    }

    fn prepare_in(slot: Slot, mut config: Config) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}{}-{count}", crate::parent::PREFIX, std::process::id());
        sweep();
        let parent = Parent::create(&name)?;
        let disk = tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .tempdir_in(DISKS)
            .context("a directory for the node's disk")?;
        config.settle(&parent, disk.path(), Subnet::new(slot.number()))?;
        let mut node =
            Self { daemon: None, registry: None, keeper: None, parent, disk, config, slot };
        node.boot()?;
        Ok(node)
    }

    /// A node with a daemon that answers.
    ///
    /// # Errors
    /// If either cannot be had.
    pub fn start(config: Config) -> Result<Self> {
        let mut node = Self::prepare(config)?;
        node.start_daemon()?;
        Ok(node)
    }

    /// Makes the namespaces and what is in them, with the disk as it is.
    fn boot(&mut self) -> Result<()> {
        let layout = Layout::new(self.disk.path());
        layout.create()?;
        let keeper = Keeper::start(self.disk.path())?;
        let etc = format!("/proc/{}/root/etc", keeper.child.id());
        self.config.write(Path::new(&etc))?;
        keeper.place.visit(|| {
            // Otherwise a bridge's own IPv6 address gets its routes a second or two after the
            // first picture of the census, or before it, as it happens.
            fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")
                .context("turn off duplicate address detection in the node")?;
            network::run(Command::new("ip").args(["link", "set", "lo", "up"]), b"").map(drop)
        })?;
        if let Some(list) = self.config.network() {
            network::warm_up(&keeper.place, list, &self.config.plugin_dirs())?;
        }
        self.keeper = Some(keeper);
        Ok(())
    }

    /// Ends everything at once, as a power cut does to memory, and boots with a new boot id.
    /// The disk stays.
    ///
    /// # Errors
    /// If the node does not come up again.
    pub fn reboot(&mut self) -> Result<()> {
        self.daemon = self.daemon.take().and_then(reap);
        self.registry = None;
        self.keeper = None;
        self.parent.kill();
        self.parent.renew()?;
        Layout::new(self.disk.path()).new_boot()?;
        self.boot()
    }

    /// Starts the daemon and waits until it answers.
    ///
    /// # Errors
    /// If it ends or does not answer; with the end of its log.
    pub fn start_daemon(&mut self) -> Result<()> {
        self.spawn_daemon()?;
        let deadline = Instant::now() + patience::here(PATIENCE);
        while !Cri::answers(&self.socket()) {
            let daemon = self.daemon.as_mut().context("the daemon was just started")?;
            if let Some(status) = daemon.try_wait()? {
                self.daemon = None;
                bail!(
                    "the daemon ended at start with {status}; its log ends:\n{}",
                    self.log_tail()
                );
            }
            if Instant::now() > deadline {
                bail!("the daemon does not answer; its log ends:\n{}", self.log_tail());
            }
            // A refused connection is answered at once: do not spin.
            std::thread::sleep(Duration::from_millis(3));
        }
        Ok(())
    }

    /// Starts the daemon without waiting for anything.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn spawn_daemon(&mut self) -> Result<()> {
        let log = fs::File::options().create(true).append(true).open(self.log())?;
        let mut command = self.config.daemon()?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let child = self.place()?.visit(|| command.spawn().context("start the daemon"))?;
        self.daemon = Some(child);
        Ok(())
    }

    /// Kills the daemon with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill_daemon(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("no daemon runs")?;
        daemon.kill().context("kill the daemon")?;
        daemon.wait().context("wait for the killed daemon")?;
        Ok(())
    }

    /// Stops the daemon with SIGTERM and expects it to end well.
    ///
    /// # Errors
    /// If it does not end in time, or not with 0.
    pub fn stop_daemon(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("no daemon runs")?;
        kill(Pid::from_raw(daemon.id().cast_signed()), Signal::SIGTERM)?;
        let deadline = Instant::now() + patience::here(PATIENCE);
        let status = loop {
            if let Some(status) = daemon.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                reap(daemon);
                bail!("the daemon did not end after SIGTERM; its log ends:\n{}", self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(3));
        };
        if !status.success() {
            bail!("the daemon ended with {status} after SIGTERM:\n{}", self.log_tail());
        }
        Ok(())
    }

    /// SIGKILL, then a new daemon.
    ///
    /// # Errors
    /// As [`Node::kill_daemon`] and [`Node::start_daemon`].
    pub fn crash_daemon(&mut self) -> Result<()> {
        self.kill_daemon()?;
        self.start_daemon()
    }

    /// Starts the open registry, if it does not run yet.
    ///
    /// # Errors
    /// If it cannot be had.
    pub fn registry(&mut self) -> Result<&Registry> {
        if self.registry.is_none() {
            let dir = self.disk.path().join("registry");
            let started = Registry::start(self.place()?, &dir, REGISTRY_PORT, Access::Open)?;
            self.registry = Some(started);
        }
        self.registry.as_ref().context("the registry was just started")
    }

    /// The node's namespaces.
    ///
    /// # Errors
    /// If the node is not up.
    pub fn place(&self) -> Result<&Place> {
        self.keeper.as_ref().map(|keeper| &keeper.place).context("the node is not up")
    }

    /// The keeper's pid, as this process sees it: `/proc/PID/root` is the node's file system.
    #[must_use]
    pub fn keeper(&self) -> u32 {
        self.keeper.as_ref().map_or(0, |keeper| keeper.child.id())
    }

    /// The daemon's pid, as this process sees it.
    #[must_use]
    pub fn daemon(&self) -> Option<u32> {
        self.daemon.as_ref().map(Child::id)
    }

    /// The exit status of a daemon that ended by itself or was killed by someone else.
    ///
    /// # Errors
    /// If none was started, or it does not end.
    pub fn wait_for_daemon(&mut self) -> Result<std::process::ExitStatus> {
        let mut daemon = self.daemon.take().context("no daemon was started")?;
        let deadline = Instant::now() + patience::here(PATIENCE);
        loop {
            if let Some(status) = daemon.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                reap(daemon);
                bail!("the daemon did not end; its log ends:\n{}", self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// A path of the node as this process can open it.
    #[must_use]
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.keeper()))
    }

    /// A directory on the real disk that the node sees under the same path.
    #[must_use]
    pub fn disk(&self) -> &Path {
        self.disk.path()
    }

    /// The node's cgroup parent.
    #[must_use]
    pub fn parent(&self) -> &Parent {
        &self.parent
    }

    /// The node's configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Changes the configuration files; the daemon reads them at its next start.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn reconfigure(&mut self, change: impl FnOnce(&mut Config)) -> Result<()> {
        change(&mut self.config);
        self.config.write(&self.path("/etc"))
    }

    /// Configures a pod network on a node that was made without one.
    ///
    /// # Errors
    /// If the plugins do not work.
    pub fn add_network(&mut self) -> Result<()> {
        self.config.add_network(Subnet::new(self.number()));
        if let Some(list) = self.config.network() {
            network::warm_up(self.place()?, list, &self.config.plugin_dirs())?;
        }
        self.config.write(&self.path("/etc"))
    }

    /// The number that tells nodes running at the same time apart.
    #[must_use]
    pub fn number(&self) -> u8 {
        self.slot.number()
    }

    /// The CRI socket as this process can connect to it.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path(self.config.socket())
    }

    /// A CRI client.
    ///
    /// # Errors
    /// If the daemon cannot be connected to.
    pub async fn cri(&self) -> Result<Cri> {
        Cri::connect(&self.socket()).await
    }

    /// Runs a program inside the node and returns its standard output.
    ///
    /// # Errors
    /// If it fails; with what it wrote.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let output = self
            .place()?
            .visit(|| network::run(Command::new(program).args(args).process_group(0), b""))?;
        Ok(String::from_utf8_lossy(&output).into_owned())
    }

    /// The daemon's log file.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.disk.path().join("log/daemon.log")
    }

    /// Keeps the daemon's log beyond the node's end, and says where.
    pub fn keep_log(&self) -> String {
        let kept = crate::paths::failures().join(format!("{}.log", self.parent.name()));
        let copied =
            fs::create_dir_all(crate::paths::failures()).and_then(|()| fs::copy(self.log(), &kept));
        match copied {
            Ok(_) => format!("kept as {}", kept.display()),
            Err(error) => format!("lost ({error})"),
        }
    }

    /// The last lines of the daemon's log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("testkit: the daemon's log is {}", self.keep_log());
            eprintln!("testkit: it ends:\n{}", self.log_tail());
        }
        self.daemon = self.daemon.take().and_then(reap);
        self.registry = None;
        self.keeper = None;
        self.parent.kill();
    }
}

impl Keeper {
    fn start(disk: &Path) -> Result<Self> {
        let program = crate::paths::testkit()?;
        let start = || {
            // systemd is told pids, which it takes for its own.
            let pids = match Driver::of_tests() {
                Driver::Cgroupfs => CloneFlags::CLONE_NEWPID,
                Driver::Systemd => CloneFlags::empty(),
            };
            unshare(
                CloneFlags::CLONE_FS
                    | CloneFlags::CLONE_NEWNS
                    | CloneFlags::CLONE_NEWNET
                    | CloneFlags::CLONE_NEWIPC
                    | pids,
            )
            .context("make the node's namespaces (this needs root)")?;
            Command::new(&program)
                .arg("keeper")
                .arg(disk)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .process_group(0)
                .spawn()
                .with_context(|| format!("start {} keeper", program.display()))
        };
        let mut child = std::thread::scope(|scope| scope.spawn(start).join())
            .map_err(|_| anyhow::anyhow!("the thread that starts a node panicked"))??;
        let stdin = child.stdin.take().context("the keeper's stdin")?;
        let stdout = child.stdout.take().context("the keeper's stdout")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        if line != "ready\n" {
            reap(child);
            bail!("the node did not come up; the keeper's message is above");
        }
        let place = Place::of(child.id())?;
        Ok(Self { child, _stdin: stdin, place })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // PID 1 takes its whole PID namespace along, and is reaped only after all of it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn reap(mut child: Child) -> Option<Child> {
    let _ = child.kill();
    let _ = child.wait();
    None
}
