//! The command line's verbs.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use berth_process::{Reaper, Roots, quiet};
use berth_proto::{task_v3, types};
use protobuf::{Message, MessageField};

use crate::arguments::{Action, Arguments};
use crate::bootstrap::{self, Sockets};
use crate::error::{Error, Result};
use crate::messages::timestamp;
use crate::runtime::{Context, RuntimeFactory, TaskOptions};
use crate::serve::{self, Inherited, Serving};

/// What a container that was cleaned up after its shim is said to have ended with: SIGKILL.
const KILLED: u32 = 137;

/// The exit code for a limit of the machine that was met: EX_OSERR of sysexits.h, "cannot fork".
const EXHAUSTED: u8 = 71;

/// The main function of a shim.
pub fn run<F: RuntimeFactory>() -> ExitCode {
    match perform::<F>() {
        Ok(answer) => match std::io::stdout().write_all(&answer) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => {
            eprintln!("{error}");
            match error.kind() {
                berth_process::Kind::Exhausted => ExitCode::from(EXHAUSTED),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// How many events are taken from the kernel at once; each has room of its own for good.
const EVENTS: usize = 64;

fn perform<F: RuntimeFactory>() -> Result<Vec<u8>> {
    let arguments = Arguments::parse(std::env::args().skip(1))?;
    match arguments.action {
        Action::Start => bootstrap::start(&arguments),
        Action::Delete => delete_now::<F>(&arguments),
        Action::Serve => serve_now::<F>(arguments),
        Action::Info => info::<F>(),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_io_events_per_tick(EVENTS)
        .on_thread_park(quiet::give_back)
        .build()
        .map_err(|e| Error::file("make", "event loop", e))
}

#[inline(never)]
fn delete_now<F: RuntimeFactory>(arguments: &Arguments) -> Result<Vec<u8>> {
    runtime()?.block_on(delete::<F>(arguments))
}

/// What is on the stack here stays in memory as long as the pod lives: the beginning, which needs
/// KiBs of it, is over before the waiting begins.
#[inline(never)]
fn serve_now<F: RuntimeFactory>(arguments: Arguments) -> Result<Vec<u8>> {
    let runtime = runtime()?;
    let serving = begin_now::<F>(&runtime, arguments)?;
    runtime.block_on(serving.until_over());
    Ok(Vec::new())
}

#[inline(never)]
fn begin_now<F: RuntimeFactory>(
    runtime: &tokio::runtime::Runtime,
    arguments: Arguments,
) -> Result<Serving> {
    runtime.block_on(begin::<F>(arguments))
}

async fn begin<F: RuntimeFactory>(arguments: Arguments) -> Result<Serving> {
    let inherited = inherited()?;
    // A session of its own: no terminal's signals. It fails only if we lead one already.
    let _ = rustix::process::setsid();
    let state = bootstrap::state(&arguments);
    let sockets = Sockets::of(&state, &arguments.namespace, &arguments.id);
    let (binary, root, systemd_cgroup) = arguments.runtime.clone();
    let context = Context {
        id: arguments.id.clone(),
        namespace: arguments.namespace.clone(),
        bundle: bootstrap::bundle(&arguments)?,
        state,
        sockets: sockets.others,
        options: TaskOptions { binary, root, systemd_cgroup },
    };
    serve::begin::<F>(context, inherited, sockets.server).await
}

/// Takes the listener and the pipe off stdin and stdout, where `start` put them, and leaves
/// /dev/null there.
fn inherited() -> Result<Inherited> {
    let take = || -> std::io::Result<Inherited> {
        let listener = rustix::stdio::stdin().try_clone_to_owned()?;
        let ready = rustix::stdio::stdout().try_clone_to_owned()?;
        let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        Ok(Inherited { listener: listener.into(), ready })
    };
    take().map_err(|e| Error::file("take over", "stdin and stdout", e))
}

async fn delete<F: RuntimeFactory>(arguments: &Arguments) -> Result<Vec<u8>> {
    let bundle = bootstrap::bundle(arguments)?;
    let reaper = Reaper::start()?;
    let state = bootstrap::state(arguments);
    let socket = Sockets::of(&state, &arguments.namespace, &arguments.id).server;
    let dead = is_dead(&socket);
    F::clean_up(&arguments.id, &bundle, &reaper).await?;
    if dead {
        // containerd from 2.0 on runs `delete` for the pod alone, whose shim its containers share.
        let roots = Roots::new(&state, &arguments.namespace);
        berth_process::clean_up_pod(&reaper, &arguments.id, &bundle, &roots).await?;
        // If this was the pod itself, its socket leads nowhere.
        let _ = std::fs::remove_file(socket);
    }
    let response = task_v3::DeleteResponse {
        exit_status: KILLED,
        exited_at: timestamp(SystemTime::now()),
        ..Default::default()
    };
    Ok(response.write_to_bytes()?)
}

/// How long somebody who answers at a socket may take to die.
const DYING: Duration = Duration::from_millis(500);

/// Whether nobody serves at a socket. One that is being killed still listens when its connections are
/// closed already, but lets go of a new one soon.
fn is_dead(socket: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else { return true };
    let _ = stream.set_read_timeout(Some(DYING));
    match stream.read_exact(&mut [0]) {
        Ok(()) => false,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

fn info<F: RuntimeFactory>() -> Result<Vec<u8>> {
    let version =
        types::RuntimeVersion { version: env!("CARGO_PKG_VERSION").into(), ..Default::default() };
    let info = types::RuntimeInfo {
        name: F::NAME.to_owned(),
        version: MessageField::some(version),
        ..Default::default()
    };
    Ok(info.write_to_bytes()?)
}
