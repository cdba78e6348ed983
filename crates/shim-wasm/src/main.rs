//! Containers that are WebAssembly: a module or a component of WASI, run by wasmtime.
//!
//! ```text
//!  server ── create ──▶ this program again, `inside`: cgroup, namespaces, streams of the container
//!                          └─▶ mounts, root, user ─▶ compile ─▶ started ─▶ run ─▶ exit code
//! ```
//!
//! Each module has a process of its own, so that kill, limits and figures are those of any container.
//! There is no shell in such an image: it runs no commands.

mod engine;
mod root;

use std::process::ExitCode;

use berth_shim::process::Result;
use berth_shim::{Bundle, Inside, Launch, Process, Shim};

fn main() -> ExitCode {
    berth_shim::main::<Wasm>()
}

#[derive(Default)]
struct Wasm;

impl Shim for Wasm {
    const NAME: &'static str = "io.containerd.berth-wasm.v1";

    async fn create(&self, _: &Bundle, launch: Launch) -> Result<Process> {
        launch.again()
    }

    fn inside(inside: Inside) -> Result<u8> {
        root::enter(&inside.bundle)?;
        inside.program.become_user()?;
        engine::run(&inside)
    }
}
