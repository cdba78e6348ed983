//! Where a subject of this bench's own lives: a test node, and cgroups that hold everything of it.
//!
//! ```text
//! /NODE/daemon       the daemon and whatever it starts and does not move elsewhere
//! /NODE/pods/N       one for each pod, made by the bench as the kubelet makes them
//! /NODE/...          what the daemon makes itself
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use berth_testkit::config::Config;
use berth_testkit::node::Node;

/// The cgroup of a daemon below the node's.
const DAEMON: &str = "daemon";

/// This program, wherever it lies and even if it was built anew since it runs.
pub(super) const SELF: &str = "/proc/self/exe";

/// A node and its accounts.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) node: Node,
}

/// What is run in a node.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
}

impl Site {
    /// A node without a daemon, in the slot of another one if there is one.
    ///
    /// # Errors
    /// If the machine lacks something.
    pub(crate) fn make(config: Config, beside: Option<&Node>) -> Result<Self> {
        let node = match beside {
            Some(other) => other.beside(config)?,
            None => Node::prepare(config)?,
        };
        node.parent().make(DAEMON)?;
        node.parent().make("pods")?;
        Ok(Self { node })
    }

    /// The command that runs a program in the node's namespaces and the daemon's cgroup: this
    /// binary enters the cgroup and executes the program.
    pub(crate) fn command(&self, program: &Program) -> Command {
        let mut command = Command::new(SELF);
        let cgroup = format!("{}/{DAEMON}", self.node.parent().name());
        command.args(["enter", &cgroup, "--"]).arg(&program.path).args(&program.args);
        command.env_clear().envs(&program.env).process_group(0).stdin(Stdio::null());
        command
    }

    /// Starts it; its words go to the daemon's log.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn spawn(&self, program: &Program) -> Result<Child> {
        let log = fs::File::options().create(true).append(true).open(self.node.log())?;
        let mut command = self.command(program);
        command.stdout(log.try_clone()?).stderr(log);
        self.start(&mut command)
    }

    /// Starts a command made by [`Site::command`] inside.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn start(&self, command: &mut Command) -> Result<Child> {
        self.node.place()?.visit(|| command.spawn().with_context(|| format!("start {command:?}")))
    }

    /// Makes the cgroup of a pod and returns its path from the root.
    ///
    /// # Errors
    /// If it is there already or cannot be made.
    pub(crate) fn make_pod_cgroup(&self, number: usize) -> Result<String> {
        self.node.parent().make(&format!("pods/{number}"))
    }

    /// Removes the cgroup of a pod, in which nothing may be left.
    ///
    /// # Errors
    /// If something is left.
    pub(crate) fn remove_pod_cgroup(&self, number: usize) -> Result<()> {
        for root in self.roots("pods")? {
            let path = root.join(number.to_string());
            fs::remove_dir(&path).with_context(|| format!("remove {}", path.display()))?;
        }
        Ok(())
    }

    /// The directory of the cgroup of a pod's container in the hierarchy that knows processes.
    pub(crate) fn container_cgroup(&self, pod: usize, container: &str) -> PathBuf {
        self.node.parent().dir("pids").join(format!("pods/{pod}/{container}"))
    }

    /// CPU time of everything that ever ran here, in milliseconds.
    ///
    /// # Errors
    /// If the kernel does not account for it.
    pub(crate) fn cpu_ms(&self) -> Result<f64> {
        cpu_ms(&self.node.parent().dir("cpuacct"))
    }

    /// CPU time of the containers that there are, in milliseconds.
    ///
    /// # Errors
    /// If the kernel does not account for it.
    pub(crate) fn containers_cpu_ms(&self) -> Result<f64> {
        cpu_ms(&self.node.parent().dir("cpuacct").join("pods"))
    }

    /// Addresses that host-local says are taken.
    ///
    /// # Errors
    /// If its directory cannot be read.
    pub(crate) fn leases(&self) -> Result<Vec<String>> {
        let list = self.node.config().network().context("a pod network")?;
        let name = list["name"].as_str().context("the network's name")?;
        let dir = self.node.path(&format!("/var/lib/cni/networks/{name}"));
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("list {}", dir.display()))?,
        };
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        Ok(names.filter(|name| name.parse::<std::net::IpAddr>().is_ok()).collect())
    }

    /// Fails unless every address is free, every veth pair and masquerade chain is gone: DEL ran.
    ///
    /// # Errors
    /// With what is left.
    pub(crate) fn network_is_clean(&self) -> Result<()> {
        let leases = self.leases()?;
        let links = self.node.run("ip", &["-o", "link", "show", "type", "veth"])?;
        let rules = self.node.run("iptables-save", &["-t", "nat"])?;
        let chains = rules.lines().filter(|line| pods_own(line));
        let chains: Vec<_> = chains.collect();
        if !leases.is_empty() || !links.trim().is_empty() || !chains.is_empty() {
            bail!("after all pods are removed: addresses {leases:?}, links {links:?}, {chains:?}");
        }
        Ok(())
    }

    /// What must be gone once the node is: its cgroups, and its directory on the disk.
    ///
    /// # Errors
    /// If the hierarchies cannot be listed.
    pub(crate) fn traces(&self) -> Result<Vec<PathBuf>> {
        let mut traces = self.roots("")?;
        traces.push(self.node.disk().to_owned());
        Ok(traces)
    }

    /// One cgroup's directories in every hierarchy.
    fn roots(&self, below: &str) -> Result<Vec<PathBuf>> {
        let path = Path::new(self.node.parent().name()).join(below);
        let found: Vec<_> = hierarchies()?.into_iter().map(|root| root.join(&path)).collect();
        Ok(found.into_iter().filter(|path| path.exists()).collect())
    }
}

fn cpu_ms(dir: &Path) -> Result<f64> {
    let v1 = dir.join("cpuacct.usage");
    if v1.exists() {
        let nanoseconds: f64 = fs::read_to_string(&v1)?.trim().parse()?;
        return Ok(nanoseconds / 1e6);
    }
    let text = fs::read_to_string(dir.join("cpu.stat")).context("the CPU time of a cgroup")?;
    let line = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
    Ok(line.context("usage_usec in cpu.stat")?.trim().parse::<f64>()? / 1e3)
}

/// The roots of every cgroup hierarchy.
fn hierarchies() -> Result<Vec<PathBuf>> {
    const ROOT: &str = "/sys/fs/cgroup";
    if Path::new(ROOT).join("cgroup.controllers").exists() {
        return Ok(vec![PathBuf::from(ROOT)]);
    }
    let entries = fs::read_dir(ROOT).with_context(|| format!("list {ROOT}"))?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}

/// Moves this process into a cgroup of every hierarchy and becomes another program.
///
/// # Errors
/// Always: if it succeeds it does not return.
pub(crate) fn enter(cgroup: &str, words: &[String]) -> Result<()> {
    let mut entered = false;
    for root in hierarchies()? {
        let dir = root.join(cgroup);
        if dir.join("cgroup.procs").exists() {
            fs::write(dir.join("cgroup.procs"), "0")
                .with_context(|| format!("enter {}", dir.display()))?;
            entered = true;
        }
    }
    let (program, args) = words.split_first().context("a program to run")?;
    if !entered {
        bail!("no cgroup is called {cgroup}");
    }
    Err(Command::new(program).args(args).exec()).with_context(|| format!("execute {program}"))
}

/// Whether a line of iptables-save names a chain that bridge or portmap made for one pod: their
/// names end with a digest, those of the common chains are short.
fn pods_own(line: &str) -> bool {
    let name = line.split(' ').next().unwrap_or_default();
    name.starts_with(":CNI-") && name.len() > 25
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_of_a_pod_are_told_from_the_common_ones() {
        assert!(pods_own(":CNI-d9f2e8ecf2aee4b5f2f1ea3c - [0:0]"));
        assert!(pods_own(":CNI-DN-1f2e8ecf2aee4b5f2f1ea - [0:0]"));
        assert!(!pods_own(":CNI-HOSTPORT-SETMARK - [1234567:89012345]"));
        assert!(!pods_own(":PREROUTING ACCEPT [0:0]"));
    }
}
