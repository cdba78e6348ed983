//! The engine: WASI as the container's file system, streams, environment and network.

use berth_shim::Inside;
use berth_shim::process::{Error, Result};
use wasmtime::component::{self, Component};
use wasmtime::{Engine, Linker, Module, Store};
use wasmtime_wasi::p1::{self, WasiP1Ctx};
use wasmtime_wasi::p2::bindings::sync::Command;
use wasmtime_wasi::{FsPerms, I32Exit, WasiCtxBuilder};

/// How a module that traps ends: as a program does that aborts.
const TRAPPED: u8 = 134;
/// How a component ends that says no more than that it failed.
const FAILED: u8 = 1;
/// What WebAssembly begins with, and the layer of a component in what follows
/// (component-model/design/mvp/Binary.md).
const MAGIC: &[u8] = b"\0asm";
const COMPONENT: &[u8] = &[1, 0];

/// Runs the program's first argument, a file of the container's root, to its end.
pub(crate) fn run(inside: &Inside) -> Result<u8> {
    let Some(path) = inside.program.args.first() else {
        return Err(Error::Invalid("a process without a module".to_owned()));
    };
    let code = std::fs::read(path).map_err(|e| Error::file("run", path, e))?;
    if !code.starts_with(MAGIC) {
        return Err(Error::Invalid(format!("{path} is not WebAssembly: name a .wasm file")));
    }
    let invalid = |e: wasmtime::Error| Error::Invalid(format!("{path}: {e:#}"));
    let engine = Engine::default();
    let store = Store::new(&engine, context(inside).map_err(invalid)?);
    let ended = match code.get(6..8) == Some(COMPONENT) {
        true => component(inside, &engine, store, &code).map_err(invalid)?,
        false => module(inside, &engine, store, &code).map_err(invalid)?,
    };
    Ok(ended.unwrap_or_else(|error| match error.downcast_ref::<I32Exit>() {
        // An exit code has eight bits.
        Some(exit) => (exit.0 & 0xff) as u8,
        None => {
            eprintln!("{path}: {error:#}");
            TRAPPED
        }
    }))
}

/// What the guest has: everything of the container, and nothing else.
fn context(inside: &Inside) -> wasmtime::Result<WasiP1Ctx> {
    let environment: Vec<_> = inside.program.env().collect();
    let mut builder = WasiCtxBuilder::new();
    builder
        .inherit_stdio()
        .args(&inside.program.args)
        .envs(&environment)
        .initial_cwd(inside.program.cwd.to_string_lossy())
        .allow_blocking_current_thread(true)
        // This process is in the pod's network namespace. Preview 1 has no sockets to make.
        .inherit_network()
        .allow_ip_name_lookup(true)
        .preopened_dir("/", "/", FsPerms::ReadWrite)?;
    Ok(builder.build_p1())
}

/// How the guest ended: with an exit code, or an error that may hold one.
type Ended = wasmtime::Result<u8>;

/// Runs a module of preview 1. An error is one before its first instruction.
fn module(
    inside: &Inside,
    engine: &Engine,
    mut store: Store<WasiP1Ctx>,
    code: &[u8],
) -> wasmtime::Result<Ended> {
    let mut linker = Linker::new(engine);
    p1::add_to_linker_sync(&mut linker, |context| context)?;
    let module = Module::new(engine, code)?;
    let ready = linker.instantiate_pre(&module)?;
    inside.started();
    let mut main = || {
        let instance = ready.instantiate(&mut store)?;
        instance.get_typed_func::<(), ()>(&mut store, "_start")?.call(&mut store, ())
    };
    Ok(main().map(|()| 0))
}

/// Runs a component of WASI 0.2.
fn component(
    inside: &Inside,
    engine: &Engine,
    mut store: Store<WasiP1Ctx>,
    code: &[u8],
) -> wasmtime::Result<Ended> {
    let mut linker = component::Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_sync(&mut linker)?;
    let component = Component::new(engine, code)?;
    let command = Command::instantiate(&mut store, &component, &linker)?;
    inside.started();
    let ended = command.wasi_cli_run().call_run(&mut store);
    Ok(ended.map(|answer| if answer.is_ok() { 0 } else { FAILED }))
}
