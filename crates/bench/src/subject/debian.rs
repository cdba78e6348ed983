//! Debian's containerd, unpacked beside the system: installing it would start a service.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use berth_testkit::image::samples::Sample;
use berth_testkit::image::{Compression, Image, Layer};
use berth_testkit::network;
use berth_testkit::node::{Node, REGISTRY_PORT};
use serde_json::json;

use super::make::Parts;

const PAUSE: &str = "testing/pause";

/// The directory of containerd's programs, unpacked the first time from Debian's package.
///
/// # Errors
/// If apt cannot download it or dpkg cannot unpack it.
pub(crate) fn containerd() -> Result<PathBuf> {
    let cache = berth_testkit::paths::cache();
    let home = cache.join("containerd");
    let programs = home.join("usr/bin");
    if programs.join("containerd").exists() {
        return Ok(programs);
    }
    fs::create_dir_all(&cache).with_context(|| format!("create {}", cache.display()))?;
    let scratch = tempfile::tempdir_in(&cache).context("a directory for the download")?;
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o777))?;
    let mut download = Command::new("apt-get");
    download.args(["download", "-o", "APT::Sandbox::User=root", "containerd"]);
    network::run(download.current_dir(scratch.path()), b"")
        .context("download containerd (`tools/needs containerd` updates apt)")?;
    let packages = fs::read_dir(scratch.path())?.flatten().map(|entry| entry.path());
    let mut packages = packages.filter(|path| path.extension().is_some_and(|end| end == "deb"));
    let package = packages.next().context("apt-get download left no package behind")?;
    let unpacked = scratch.path().join("unpacked");
    network::run(Command::new("dpkg").arg("-x").arg(package).arg(&unpacked), b"")?;
    match fs::rename(&unpacked, &home) {
        Err(error) if !programs.join("containerd").exists() => {
            Err(error).with_context(|| format!("rename to {}", home.display()))
        }
        _ => Ok(programs),
    }
}

/// Puts an image for the pause container into the node's registry: Berth's helper is its program.
///
/// # Errors
/// If the registry refuses it.
pub(crate) fn push_pause(node: &mut Node) -> Result<()> {
    let helper = berth_testkit::paths::small()?.join("berth-helper");
    let program = fs::read(&helper).with_context(|| format!("read {}", helper.display()))?;
    let layer = Layer::new().file("pause", 0o755, program).pack(Compression::Gzip);
    let image = Image::new(vec![layer]).with("Entrypoint", json!(["/pause", "pause"]));
    let sample = Sample { name: PAUSE.to_owned(), tags: vec!["latest".to_owned()], image };
    let push = node.registry()?.push();
    node.place()?.visit(|| push.sample(&sample)).context("push the pause image")
}

/// containerd's config.toml: what a node has by default, at the node's places.
///
/// # Errors
/// If a path is not UTF-8.
pub(crate) fn configuration(node: &Node, parts: &Parts) -> Result<String> {
    let text = |path: &Path| path.to_str().map(str::to_owned).context("a path in UTF-8");
    let [root, opt] = ["containerd", "opt"].map(|name| node.disk().join(name));
    let dirs = node.config().plugin_dirs();
    let own = text(&parts.runtime)?;
    let mut runtimes = runtime("runc", &own);
    for handler in parts.handlers.iter().filter(|handler| handler.name != "runc") {
        runtimes.push_str(&handler.for_containerd(&own)?);
    }
    let [dir] = &dirs[..] else { bail!("containerd looks for CNI plugins in one directory") };
    Ok(format!(
        "version = 2\nroot = {root:?}\nstate = \"/run/containerd\"\n\
         [grpc]\naddress = \"/run/containerd/containerd.sock\"\n\
         [plugins.\"io.containerd.internal.v1.opt\"]\npath = {opt:?}\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\n\
         sandbox_image = \"127.0.0.1:{REGISTRY_PORT}/{PAUSE}:latest\"\n\
         restrict_oom_score_adj = true\n\
         [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = {dir:?}\n\
         conf_dir = \"/etc/cni/net.d\"\n\
         {runtimes}",
        root = text(&root)?,
        opt = text(&opt)?,
    ))
}

/// The tables of a runtime by containerd's shim.
pub(crate) fn runtime(name: &str, binary: &str) -> String {
    let table = format!("plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.{name}");
    format!(
        "[{table}]\nruntime_type = \"io.containerd.runc.v2\"\n\
         [{table}.options]\nBinaryName = {binary:?}\n"
    )
}
