//! Debian's containerd as a subject: the testkit unpacks it; here is which runtimes it gets.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use berth_testkit::containerd::{self, Layout};
use berth_testkit::node::Node;

use super::make::Parts;

/// The directory of containerd's programs.
///
/// # Errors
/// If they cannot be had.
pub(crate) fn containerd() -> Result<PathBuf> {
    containerd::programs()
}

/// containerd's config.toml: what a node has by default, at the node's places.
///
/// # Errors
/// If a path is not UTF-8.
pub(crate) fn configuration(node: &Node, parts: &Parts) -> Result<String> {
    let dirs = node.config().plugin_dirs();
    let own = parts.runtime.to_str().context("a path in UTF-8")?;
    let mut runtimes = runtime("runc", own);
    for handler in parts.handlers.iter().filter(|handler| handler.name != "runc") {
        runtimes.push_str(&handler.for_containerd(own, node.disk())?);
    }
    let [plugins] = &dirs[..] else { bail!("containerd looks for CNI plugins in one directory") };
    containerd::configuration(&Layout { disk: node.disk(), plugins, runtimes: &runtimes })
}

/// The name of a runtime's table.
pub(crate) fn table(name: &str) -> String {
    format!("plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.{name}")
}

/// The tables of a runtime by containerd's shim.
pub(crate) fn runtime(name: &str, binary: &str) -> String {
    let table = table(name);
    format!(
        "[{table}]\nruntime_type = \"io.containerd.runc.v2\"\n\
         [{table}.options]\nBinaryName = {binary:?}\n"
    )
}
