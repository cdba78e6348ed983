//! The guest's second disk: the built programs, the tests, and their list.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::Driver;
use crate::network::run;
use crate::paths;

/// Where the disk is mounted in the guest; `tools/guest/image` says the same.
const AT: &str = "/tests";
/// How many times slower an emulated machine is than one of hardware.
const SLOWNESS: u32 = 5;

/// What the guest is to run.
#[derive(Debug)]
pub(super) struct Load<'a> {
    /// The program of the tests.
    pub(super) tests: &'a Path,
    /// Their names.
    pub(super) names: &'a [String],
    /// How cgroups are made.
    pub(super) driver: Driver,
    /// Whether its processors are emulated.
    pub(super) emulated: bool,
}

/// Makes the disk's image in this directory.
pub(super) fn make(load: &Load<'_>, home: &Path) -> Result<PathBuf> {
    let tree = tempfile::tempdir_in(home).context("a directory for the disk's files")?;
    let target = paths::target();
    let place = |path: &Path| -> Result<PathBuf> {
        let to = tree.path().join("target").join(path.strip_prefix(&target)?);
        fs::create_dir_all(to.parent().context("a file has a directory")?)?;
        Ok(to)
    };
    let small = paths::small()?;
    for program in [
        paths::daemon()?,
        paths::built("berth-testkit", "berth-testkit")?,
        paths::built("containerd-shim-guide-v1", "berth-shim-guide")?,
        small.join("containerd-shim-berth-v1"),
        small.join("berth-helper"),
        load.tests.to_owned(),
    ] {
        // What a debugger needs is most of them.
        let mut strip = Command::new("strip");
        strip.arg("--strip-debug").arg("-o").arg(place(&program)?).arg(&program);
        run(&mut strip, b"").with_context(|| format!("take {}", program.display()))?;
    }
    for package in ["docker-registry", "containerd"] {
        let from = paths::cache().join(package);
        run(Command::new("cp").arg("-a").arg(&from).arg(place(&from)?), b"")?;
    }
    fs::write(tree.path().join("list"), load.names.join("\n")).context("write the list")?;
    fs::write(tree.path().join("start"), start(load, &target)?).context("write the start")?;
    let image = home.join("tests.ext4");
    fs::File::create(&image)?.set_len(4 << 30).context("make room for the disk")?;
    let mut make = Command::new("mke2fs");
    make.args(["-q", "-t", "ext4", "-F", "-E", "lazy_itable_init=1", "-d"]).arg(tree.path());
    run(make.arg(&image), b"")?;
    Ok(image)
}

/// The script that PID 1 runs: paths in the guest are those of the machine that built the tests.
fn start(load: &Load<'_>, target: &Path) -> Result<String> {
    let (target, workspace) = (target.display(), paths::workspace());
    let tests = load.tests.strip_prefix(paths::target())?.display();
    // With systemd nodes have no PID namespaces of their own, so one at a time.
    let jobs = if load.driver == Driver::Systemd { 1 } else { 2 };
    Ok(format!(
        "export PATH=/usr/sbin:/usr/bin HOME=/root {driver}={name} {slowness}={factor}\n\
         mkdir -p {workspace} {target} && mount --bind {AT}/target {target} || exit\n\
         cd {workspace} && exec {target}/debug/berth-testkit guest {target}/{tests} {AT}/list {jobs}\n",
        driver = Driver::VARIABLE,
        name = load.driver.name(),
        slowness = crate::patience::SLOWNESS,
        factor = if load.emulated { SLOWNESS } else { 1 },
        workspace = workspace.display(),
    ))
}
