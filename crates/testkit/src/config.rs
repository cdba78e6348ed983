//! The configuration of a node: Berth's own file, CNI's, and the daemon's command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::containerd::{self, Layout};
use crate::network::{self, Families, Subnet};
use crate::parent::Parent;

/// containerd's configuration below `/etc`.
const CONTAINERD: &str = "containerd/config.toml";

/// The PATH of a service.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// What a node is started with. The default is what most tests want.
#[derive(Clone, Debug)]
pub struct Config {
    families: Families,
    network: Option<Value>,
    with_network: bool,
    lines: Vec<String>,
    cgroup_root: String,
    slice: Option<String>,
    files: Vec<(String, String)>,
    stand_in: Option<(String, String)>,
    daemon: Daemon,
    disk: PathBuf,
    programs: Option<PathBuf>,
}

/// Which daemon a node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Daemon {
    /// Berth's.
    Berth,
    /// Debian's containerd, with Berth's shim for its pods.
    Containerd,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            families: Families::One,
            network: None,
            with_network: true,
            lines: Vec::new(),
            cgroup_root: String::new(),
            slice: None,
            files: Vec::new(),
            stand_in: None,
            daemon: Daemon::Berth,
            disk: PathBuf::new(),
            programs: None,
        }
    }
}

impl Config {
    /// Pods get addresses of both families.
    #[must_use]
    pub fn dual_stack(mut self) -> Self {
        self.families = Families::Two;
        self
    }

    /// No CNI configuration at first.
    #[must_use]
    pub fn without_network(mut self) -> Self {
        self.with_network = false;
        self
    }

    /// Adds a drop-in file of Berth's configuration.
    #[must_use]
    pub fn drop_in(mut self, name: &str, text: &str) -> Self {
        self.lines.push(format!("{name}\0{text}"));
        self
    }

    /// Another daemon in the place of Berth's.
    #[must_use]
    pub fn under(mut self, daemon: Daemon) -> Self {
        self.daemon = daemon;
        self
    }

    /// Which daemon the node has.
    #[must_use]
    pub fn which(&self) -> Daemon {
        self.daemon
    }

    /// Programs that the daemon and what it runs find in this directory before all others.
    #[must_use]
    pub fn programs(mut self, directory: &Path) -> Self {
        self.programs = Some(directory.to_owned());
        self
    }

    /// The chain of CNI plugins ends with the testkit's stand-in of this directory; its program
    /// is in `bin`.
    #[must_use]
    pub fn stand_in(mut self, dir: &Path, bin: &Path) -> Self {
        self.stand_in = Some((dir.display().to_string(), bin.display().to_string()));
        self
    }

    /// Adds any file of the node, by its path below `/etc`.
    #[must_use]
    pub fn file(mut self, path: &str, text: &str) -> Self {
        self.files.push((path.to_owned(), text.to_owned()));
        self
    }

    /// The pod network is configured from now on.
    pub(crate) fn add_network(&mut self, subnet: Subnet) {
        self.network = Some(network::conflist(subnet, self.families));
    }

    /// Fills in what only the node knows.
    pub(crate) fn settle(&mut self, parent: &Parent, disk: &Path, subnet: Subnet) -> Result<()> {
        self.cgroup_root = parent.path();
        self.slice = parent.slice().map(str::to_owned);
        disk.clone_into(&mut self.disk);
        if self.with_network && self.network.is_none() {
            let mut list = network::conflist(subnet, self.families);
            if let (Some((dir, _)), Some(plugins)) =
                (&self.stand_in, list["plugins"].as_array_mut())
            {
                let capabilities = json!({"portMappings": true, "bandwidth": true});
                plugins.push(json!({"type": "stand-in", "dir": dir, "capabilities": capabilities}));
            }
            self.network = Some(list);
        }
        Ok(())
    }

    /// The CNI configuration list, if the node has a pod network.
    #[must_use]
    pub fn network(&self) -> Option<&Value> {
        self.network.as_ref()
    }

    /// Writes every file into the node's `/etc`, through the upper directory of its overlay.
    pub(crate) fn write(&self, etc: &Path) -> Result<()> {
        let mut files = vec![("berth/config.toml".to_owned(), self.berth()?)];
        if self.daemon == Daemon::Containerd {
            files.push((CONTAINERD.to_owned(), self.containerd()?));
        }
        let registry = format!("127.0.0.1:{}", crate::node::REGISTRY_PORT);
        let hosts = format!("server = \"http://{registry}\"\n");
        files.push((format!("berth/certs.d/{registry}/hosts.toml"), hosts));
        if let Some(list) = &self.network {
            files.push(("cni/net.d/10-testnet.conflist".to_owned(), list.to_string()));
        }
        for line in &self.lines {
            let (name, text) = line.split_once('\0').context("a drop-in has a name")?;
            files.push((format!("berth/config.toml.d/{name}"), text.to_owned()));
        }
        for (path, text) in files.iter().chain(&self.files) {
            put(&etc.join(path), text)?;
        }
        Ok(())
    }
}

/// What the unit sets for the daemon on a machine.
fn environment() -> impl Iterator<Item = (&'static str, &'static str)> {
    let unit = include_str!("../../../packaging/systemd/berth.service");
    unit.lines().filter_map(|line| line.strip_prefix("Environment=")?.split_once('='))
}

impl Config {
    /// The daemon's command line, in the environment that its unit gives it and no other.
    ///
    /// # Errors
    /// If a binary is not built.
    pub fn daemon(&self) -> Result<Command> {
        match self.daemon {
            Daemon::Berth => {
                let mut command = self.program()?;
                command.arg("serve").envs(environment());
                Ok(command)
            }
            Daemon::Containerd => {
                let program = containerd::programs()?.join("containerd");
                let mut command = in_its_environment(&program)?;
                command.arg("--config").arg(Path::new("/etc").join(CONTAINERD));
                Ok(command)
            }
        }
    }

    /// Berth's command line without a command.
    ///
    /// # Errors
    /// If a binary is not built.
    pub fn program(&self) -> Result<Command> {
        let mut command = in_its_environment(&crate::paths::daemon()?)?;
        if let Some(first) = &self.programs {
            let small = crate::paths::small()?;
            let path = format!("{}:{}:{PATH}", first.display(), small.display());
            command.env("PATH", path);
        }
        Ok(command)
    }

    /// The CRI socket's path inside the node.
    #[must_use]
    pub fn socket(&self) -> &'static str {
        match self.daemon {
            Daemon::Berth => "/run/berth/berth.sock",
            Daemon::Containerd => containerd::SOCKET,
        }
    }

    /// The cgroup parent of pods that name none; `None` if the daemon itself knows one below the
    /// node's.
    #[must_use]
    pub fn pods(&self) -> Option<String> {
        (self.daemon != Daemon::Berth).then(|| format!("{}/pods", self.cgroup_root))
    }

    /// Where CNI plugins are looked for.
    #[must_use]
    pub fn plugin_dirs(&self) -> Vec<String> {
        let own = self.stand_in.iter().map(|(_, bin)| bin.clone());
        own.chain([network::PLUGINS.to_owned()]).collect()
    }

    fn containerd(&self) -> Result<String> {
        let dirs = self.plugin_dirs();
        let [plugins] = &dirs[..] else { bail!("containerd looks for plugins in one directory") };
        let runtimes = containerd::by_berth();
        containerd::configuration(&Layout { disk: &self.disk, plugins, runtimes: &runtimes })
    }

    fn berth(&self) -> Result<String> {
        let small = crate::paths::small()?;
        Ok(format!(
            "[log]\nlevel = \"info,berth::effect=debug\"\n\
             [cgroups]\nparent = \"{}/berth\"\n{}\
             [pods]\nrestrict_oom_score_adj = {}\n\
             [network]\nbin_dirs = {:?}\n\
             [handlers.berth]\nshim = {:?}\n\
             [helper]\npath = {:?}\n",
            self.cgroup_root,
            self.slice.as_ref().map_or_else(String::new, |slice| {
                format!("driver = \"systemd\"\nslice = {slice:?}\n")
            }),
            !may_lower_oom_scores()?,
            self.plugin_dirs(),
            small.join("containerd-shim-berth-v1"),
            small.join("berth-helper"),
        ))
    }
}

/// A program with the PATH of a service that has our shim.
fn in_its_environment(program: &Path) -> Result<Command> {
    let mut command = Command::new(program);
    let path = format!("{}:{PATH}", crate::paths::small()?.display());
    command.env_clear().env("PATH", path).env("RUST_BACKTRACE", "1");
    Ok(command)
}

/// Whether this process has CAP_SYS_RESOURCE: machines that are containers themselves do not.
fn may_lower_oom_scores() -> Result<bool> {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    Ok(effective.context("a line CapEff")? & (1 << CAP_SYS_RESOURCE) != 0)
}

fn put(path: &Path, text: &str) -> Result<()> {
    let parent = path.parent().context("a file has a directory")?;
    fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_unit_sets_is_read() {
        let set: Vec<_> = environment().collect();
        assert_eq!(set, [("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0")]);
    }
}
