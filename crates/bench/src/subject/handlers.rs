//! The handlers that are measured one by one: what Berth and containerd are told to run a pod by.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::debian;
use crate::report::What;

/// A way to run a container that both daemons have.
#[derive(Clone, Debug)]
pub(crate) struct Handler {
    /// Its name in both configurations.
    pub(crate) name: &'static str,
    /// Its row.
    pub(crate) what: What,
    /// Its container's process stays the OCI runtime's own program.
    pub(crate) sandboxed: bool,
    program: PathBuf,
    by: By,
}

/// How Berth comes to the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// Berth's shim drives this OCI runtime.
    Runtime,
    /// This is a shim by others, over the OCI runtime of everybody.
    Shim,
}

const RUNC: What = What::lower("handler/runc", "a running pod by runc", "ms");
const CRUN: What = What::lower("handler/crun", "a running pod by crun", "ms");
const GVISOR: What = What::lower("handler/gvisor", "a running pod by gVisor's runsc", "ms");
const SHIM: What = What::lower("handler/runc-v2", "a running pod by containerd-shim-runc-v2", "ms");

/// Those of which the program is on this machine.
///
/// # Errors
/// If containerd's programs cannot be had.
pub(crate) fn found() -> Result<Vec<Handler>> {
    let shim = debian::containerd()?.join("containerd-shim-runc-v2");
    let gvisor = berth_testkit::paths::cache().join("runsc/usr/bin/runsc");
    let all = [
        ("runc", RUNC, By::Runtime, program("runc")),
        ("crun", CRUN, By::Runtime, program("crun")),
        ("gvisor", GVISOR, By::Runtime, Some(gvisor)),
        ("runc-v2", SHIM, By::Shim, Some(shim)),
    ];
    let found = all.into_iter().filter_map(|(name, what, by, program)| {
        let program = program.filter(|path| path.is_file())?;
        Some(Handler { name, what, sandboxed: name == "gvisor", program, by })
    });
    Ok(found.collect())
}

/// gVisor's own shim, which Debian does not have.
pub(crate) fn gvisor_shim() -> Option<PathBuf> {
    program("containerd-shim-runsc-v1")
}

/// A program in the directories of a root user's PATH.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let dirs = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let paths = dirs.split(':').map(|dir| Path::new(dir).join(name)).collect::<Vec<_>>();
    paths.into_iter().find(|path| path.is_file())
}

impl Handler {
    /// Its table in Berth's configuration.
    ///
    /// # Errors
    /// If its path is not UTF-8.
    pub(crate) fn for_berth(&self) -> Result<String> {
        let key = match self.by {
            By::Runtime => "runtime",
            By::Shim => "shim",
        };
        Ok(format!("[handlers.{}]\n{key} = {:?}\n", self.name, self.text()?))
    }

    /// Its tables in containerd's configuration, and what it writes into `dir` for them: gVisor is
    /// run by its own shim, if that is on PATH, the others by containerd's.
    ///
    /// # Errors
    /// If a path is not UTF-8, or a file cannot be written.
    pub(crate) fn for_containerd(&self, runtime: &str, dir: &Path) -> Result<String> {
        Ok(match (self.by, self.sandboxed) {
            (By::Shim, _) => debian::runtime(self.name, runtime),
            (By::Runtime, false) => debian::runtime(self.name, self.text()?),
            (By::Runtime, true) if gvisor_shim().is_some() => self.gvisor(dir)?,
            (By::Runtime, true) => String::new(),
        })
    }

    /// The node's network stack, where Berth has gVisor's: of itself Debian's runsc does not start
    /// that one on kernels of today.
    fn gvisor(&self, dir: &Path) -> Result<String> {
        let config = dir.join("runsc.toml");
        let text = format!(
            "binary_name = {:?}\n[runsc_config]\nnetwork = \"host\"\nplatform = \"systrap\"\n\
             overlay2 = \"none\"\n",
            self.text()?
        );
        fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
        let table = debian::table(self.name);
        Ok(format!(
            "[{table}]\nruntime_type = \"io.containerd.runsc.v1\"\n\
             [{table}.options]\nTypeUrl = \"io.containerd.runsc.v1.options\"\n\
             ConfigPath = {config:?}\n"
        ))
    }

    /// What its program says of its version, if it says that.
    pub(crate) fn version(&self) -> Option<String> {
        let output = Command::new(&self.program).arg("--version").output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let line =
            text.lines().next().filter(|line| output.status.success() && !line.is_empty())?;
        Some(format!("{}: {line}", self.name))
    }

    fn text(&self) -> Result<&str> {
        self.program.to_str().context("a path in UTF-8")
    }
}
