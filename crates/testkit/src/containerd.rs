//! Debian's containerd in a node: unpacked beside the system, because installing it would start a
//! service, and configured for the node's places.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::image::samples::Sample;
use crate::image::{Compression, Image, Layer};
use crate::network;
use crate::node::{Node, REGISTRY_PORT};

/// The CRI socket, and containerd's own.
pub const SOCKET: &str = "/run/containerd/containerd.sock";
const PAUSE: &str = "testing/pause";

/// The directory of containerd's programs: `BERTH_CONTAINERD_DIR`, or unpacked the first time from
/// Debian's package.
///
/// # Errors
/// If apt cannot download it or dpkg cannot unpack it.
pub fn programs() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("BERTH_CONTAINERD_DIR") {
        return Ok(PathBuf::from(dir));
    }
    let cache = crate::paths::cache();
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
pub fn push_pause(node: &mut Node) -> Result<()> {
    let helper = crate::paths::small()?.join("berth-helper");
    let program = fs::read(&helper).with_context(|| format!("read {}", helper.display()))?;
    let layer = Layer::new().file("pause", 0o755, program).pack(Compression::Gzip);
    let image = Image::new(vec![layer]).with("Entrypoint", json!(["/pause", "pause"]));
    let sample = Sample { name: PAUSE.to_owned(), tags: vec!["latest".to_owned()], image };
    let push = node.registry()?.push();
    node.place()?.visit(|| push.sample(&sample)).context("push the pause image")
}

/// What containerd's configuration depends on.
#[derive(Clone, Copy, Debug)]
pub struct Layout<'a> {
    /// The node's disk, on which images lie.
    pub disk: &'a Path,
    /// The directory of the CNI plugins.
    pub plugins: &'a str,
    /// The tables of CRI's runtimes.
    pub runtimes: &'a str,
}

/// containerd's config.toml: what a node has by default, at the node's places.
///
/// # Errors
/// If a path is not UTF-8.
pub fn configuration(layout: &Layout<'_>) -> Result<String> {
    let [root, opt] = ["containerd", "opt"].map(|name| layout.disk.join(name));
    let text = |path: &Path| path.to_str().map(str::to_owned).context("a path in UTF-8");
    Ok(format!(
        "version = 2\nroot = {root:?}\nstate = \"/run/containerd\"\n\
         [grpc]\naddress = {SOCKET:?}\n\
         [plugins.\"io.containerd.internal.v1.opt\"]\npath = {opt:?}\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\n\
         sandbox_image = \"127.0.0.1:{REGISTRY_PORT}/{PAUSE}:latest\"\n\
         restrict_oom_score_adj = true\n\
         [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = {plugins:?}\n\
         conf_dir = \"/etc/cni/net.d\"\n\
         {runtimes}",
        root = text(&root)?,
        opt = text(&opt)?,
        plugins = layout.plugins,
        runtimes = layout.runtimes,
    ))
}

/// CRI's runtime `berth`, by our shim, as the one for pods that name none. More lines of its table
/// may be in `BERTH_CONTAINERD_RUNTIME`, for runs under another containerd than Debian's.
#[must_use]
pub(crate) fn by_berth() -> String {
    let more = std::env::var("BERTH_CONTAINERD_RUNTIME").unwrap_or_default();
    let table = "plugins.\"io.containerd.grpc.v1.cri\".containerd";
    format!(
        "[{table}]\ndefault_runtime_name = \"berth\"\n\
         [{table}.runtimes.berth]\nruntime_type = \"io.containerd.berth.v1\"\n{more}\n"
    )
}
