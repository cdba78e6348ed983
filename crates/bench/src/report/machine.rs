//! What the figures were measured on and with.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

/// The machine, and the versions of what takes part.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Machine {
    /// Processor, number of processors, memory.
    pub(crate) hardware: String,
    /// Release and cgroup version.
    pub(crate) kernel: String,
    /// Load of the last minute, before the run.
    pub(crate) load_before: String,
    /// The same, after it.
    pub(crate) load_after: String,
    /// Subjects and parts with their versions.
    pub(crate) versions: Vec<String>,
    /// How long the run took, in seconds.
    pub(crate) seconds: f64,
}

impl Machine {
    /// Looks at this machine, before a run.
    pub(crate) fn before(runtime: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
        let model = model.and_then(|rest| rest.split_once(':')).map_or("", |(_, name)| name.trim());
        let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        let memory = read("/proc/meminfo");
        let kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib = kib.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
        let gib = kib.unwrap_or(0.0) / 1024.0 / 1024.0;
        let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let cgroup = if unified { "cgroup v2" } else { "cgroup v1" };
        let release = read("/proc/sys/kernel/osrelease");
        let mut versions = vec![said(Command::new(runtime).arg("--version"))];
        let package = "containernetworking-plugins";
        let plugins = said(Command::new("dpkg-query").args(["-W", package]));
        versions.push(plugins.replace('\t', " "));
        Self {
            hardware: format!("{cpus} × {model}, {gib:.0} GiB"),
            kernel: format!("Linux {}, {cgroup}", release.trim()),
            load_before: load(),
            versions,
            ..Self::default()
        }
    }
}

/// The load of the last minute.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// The first line that a command prints.
fn said(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).lines().next().unwrap_or_default().to_owned()
}
