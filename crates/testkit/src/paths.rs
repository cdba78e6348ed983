//! Where the binaries under test and the testkit's own files are.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

/// The workspace's root.
#[must_use]
pub fn workspace() -> PathBuf {
    let crates = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    crates.ancestors().nth(2).map_or(crates.clone(), PathBuf::from)
}

pub(crate) fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace().join(dir),
        None => workspace().join("target"),
    }
}

/// Things that are fetched once: the registry.
#[must_use]
pub fn cache() -> PathBuf {
    target().join("testkit")
}

/// CRIU: `testkit/criu/criu` below the target directory, or the one on PATH; none if there is none
/// that works with this kernel.
#[must_use]
pub fn criu() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(cache().join("criu")).chain(std::env::split_paths(&path));
    all.map(|dir| dir.join("criu")).find(|criu| {
        let check = std::process::Command::new(criu).arg("check").output();
        check.is_ok_and(|check| check.status.success())
    })
}

/// Where the logs of failed tests are kept.
#[must_use]
pub fn failures() -> PathBuf {
    target().join("testkit/failures")
}

/// The daemon: `BERTH_BIN`, or the debug build.
///
/// # Errors
/// If it is not built.
pub fn daemon() -> Result<PathBuf> {
    find("BERTH_BIN", target().join("debug/berth"), "cargo build -p berth")
}

/// The testkit's own program, which also is the keeper of a node: this process's, or the one
/// beside a test's (`debug/deps/NAME-HASH` stands one level below).
///
/// # Errors
/// If it is not built.
pub fn testkit() -> Result<PathBuf> {
    const NAME: &str = "berth-testkit";
    let own = std::env::current_exe().context("find the running program")?;
    if own.ends_with(NAME) {
        return Ok(own);
    }
    let beside = own.ancestors().skip(1).take(2).map(|dir| dir.join(NAME));
    match beside.into_iter().find(|path| path.exists()) {
        Some(path) => Ok(path),
        None => bail!("{NAME} is not built: run `cargo build -p berth-testkit`"),
    }
}

/// The directory of the static shim and helper: `BERTH_STATIC_DIR`, or where `make` builds them.
///
/// # Errors
/// If they are not built.
pub fn small() -> Result<PathBuf> {
    let small = target().join("static").join(triple()).join("small");
    let dir = match std::env::var_os("BERTH_STATIC_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => small,
    };
    for name in ["containerd-shim-berth-v1", "berth-helper"] {
        if !dir.join(name).exists() {
            bail!("{} is not built: run `make build`", dir.join(name).display());
        }
    }
    Ok(dir)
}

/// A program of the workspace in the debug build: its name, and the package that it is built from.
///
/// # Errors
/// If it is not built.
pub fn built(name: &str, package: &str) -> Result<PathBuf> {
    let path = target().join("debug").join(name);
    if !path.exists() {
        bail!("{} is not built: run `cargo build -p {package}` or `make build`", path.display());
    }
    Ok(path)
}

/// The shim for WebAssembly, which is a workspace of its own.
///
/// # Errors
/// If it is not built.
pub fn wasm_shim() -> Result<PathBuf> {
    let path = target().join("wasm/debug/containerd-shim-berth-wasm-v1");
    if !path.exists() {
        bail!("{} is not built: run `make wasm`", path.display());
    }
    Ok(path)
}

fn triple() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

fn find(variable: &str, default: PathBuf, how: &str) -> Result<PathBuf> {
    let path = std::env::var_os(variable).map_or(default, PathBuf::from);
    if !path.exists() {
        bail!("{} is not built: run `{how}` or `make build`", path.display());
    }
    Ok(path)
}
