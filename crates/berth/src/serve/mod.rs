//! The daemon: what it starts, in which order, and how it stops.
//!
//! ```text
//!   configuration ─▶ log ─▶ lock ─▶ parts of the node ─▶ pods adopted ─▶ socket ─▶ READY
//!   SIGHUP, files changed: handlers and the log's level are read again
//!   SIGTERM, SIGINT: calls end, containers stay
//! ```

mod conditions;
mod lock;
mod logging;
mod network_watch;
mod notify;
mod reload;
mod rest;
mod services;
mod socket;
mod wire;

use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Loaded};
use crate::metrics;
use lock::Lock;
use logging::Level;
use notify::Notify;
use reload::Reload;
use services::Services;
pub(crate) use socket::{TEMPORARY, group_id};
use wire::Wired;

/// Names an own level of the log, over the configuration's.
const LOG_VARIABLE: &str = "BERTH_LOG";

/// Root of a pod's user namespace is nobody here, and must get through to the pod's own files;
/// what else there is, is not for others to see.
const PASS_THROUGH: u32 = 0o711;

/// How long calls, and CNI plugins also when nobody waits for them any more, may go on once the
/// daemon has been told to stop. What they began is saved: the next daemon goes on with it.
const FAREWELL: Duration = Duration::from_secs(3);

/// A task of ours needs less than a thread's default of 2 MiB, deep debug builds included.
const STACK: usize = 1 << 20;

/// Threads for files of our own disk; more would not make it faster.
const BLOCKING_THREADS: usize = 32;

/// Heaps for all threads together: nothing here allocates so much that they would wait.
const HEAPS: u16 = 1;

/// A thread that has nothing to do keeps its stack for this long.
const IDLE_THREAD: Duration = Duration::from_secs(1);

/// Runs the daemon until it is told to stop.
pub(crate) fn run(path: Option<&Path>) -> anyhow::Result<()> {
    berth_sys::heap::share(HEAPS);
    let loaded = Loaded::read(path)?;
    let mut config = loaded.check_here()?;
    let given = std::env::var(LOG_VARIABLE).ok();
    if let Some(level) = &given {
        level.clone_into(&mut config.log_level);
    }
    let level = logging::start(&config).with_context(|| match &given {
        Some(level) => format!("{LOG_VARIABLE} is {level:?}: give a level, or target=level"),
        None => "cannot start the log".to_owned(),
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers())
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(IDLE_THREAD)
        .thread_stack_size(STACK)
        .thread_name("berth")
        .enable_all()
        .build()
        .context("cannot start the daemon's threads")?;
    let end = runtime.block_on(serve(&config, path, level));
    // Jobs go on and are fenced by the next daemon: half a DEL leaves what no other DEL finds.
    berth_job::leave_running();
    // A thread that waits for the disk must not hold the end up: its work is saved or repeated.
    runtime.shutdown_background();
    end
}

/// Nothing here computes: more threads than this only add stacks.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 4)
}

async fn serve(config: &Config, path: Option<&Path>, level: Level) -> anyhow::Result<()> {
    let mut locks = Vec::new();
    for (key, directory) in [("root", &config.root), ("state", &config.state)] {
        make_own(directory).with_context(|| format!("{key} cannot be used"))?;
        locks.push(Lock::take(&directory.join("lock"), key)?);
    }
    let notify = Arc::new(Notify::from_environment());
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "berth starts");
    let wired = Box::pin(wire::wire(config)).await?;
    if let Some(parent) = config.socket.parent() {
        make(parent)?;
    }
    let listener = socket::bind(&config.socket, config.group.as_deref())?;
    let stop = CancellationToken::new();
    if let Some(address) = config.metrics {
        start_metrics(address, &wired).await;
    }
    let reload = Reload::new(path, config, level, Arc::clone(&notify), wired.node.clone());
    let reload_now = reload.asked();
    tracing::info!(socket = %config.socket.display(), "serving CRI");
    let network = Arc::clone(&wired.network);
    let node = wired.node.clone();
    let mut server = tokio::spawn(answer(listener, wired, stop.clone()));
    notify.ready();
    let mut reload = tokio::spawn(reload.run());
    // Without one of its parts a daemon is better started again: it finds everything as it was.
    tokio::select! {
        asked = wait_for_the_end(&reload_now) => asked?,
        ended = &mut server => bail!("the CRI server has ended by itself: {ended:?}"),
        Err(why) = &mut reload => bail!("nobody reads the configuration again: {why}"),
    }
    reload.abort();
    notify.stopping();
    stop.cancel();
    node.end_listening();
    let end = async {
        let ended = server.await;
        if network.is_busy() {
            tracing::info!("calls have ended; CNI plugins in progress may end, too");
        }
        (ended, network.quiet().await)
    };
    let ended = tokio::time::timeout(FAREWELL, end).await;
    node.end_plugins().await;
    match ended {
        Ok((Ok(ended), _)) => ended.context("the CRI server failed")?,
        Ok((Err(panic), _)) => return Err(panic).context("the CRI server failed"),
        Err(_) => tracing::info!("what is in progress is left to the next daemon"),
    }
    tracing::info!("berth stops; containers go on");
    Ok(())
}

fn make(directory: &Path) -> anyhow::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(PASS_THROUGH)
        .create(directory)
        .with_context(|| format!("cannot make {}", directory.display()))
}

/// Makes a directory that is Berth's alone, and closes one that was made by somebody else.
fn make_own(directory: &Path) -> anyhow::Result<()> {
    make(directory)?;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(PASS_THROUGH))
        .with_context(|| format!("cannot set the mode of {}", directory.display()))
}

async fn answer(
    listener: UnixListener,
    wired: Wired,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let services = Services::new(&wired.cri, wired.node_service);
    let connections = socket::connections(listener);
    tonic::transport::Server::builder()
        .serve_with_incoming_shutdown(services, connections, stop.cancelled_owned())
        .await
}

/// A node without metrics is better than none: a port that is taken is told, not fatal.
async fn start_metrics(address: std::net::SocketAddr, wired: &Wired) {
    match tokio::net::TcpListener::bind(address).await {
        Ok(listener) => {
            tokio::spawn(metrics::serve(listener, wired.gather.clone()));
        }
        Err(error) => {
            let advice = "set metrics.address to a free one, or to \"\"";
            tracing::error!(%address, %error, advice, "cannot serve metrics");
        }
    }
}

async fn wait_for_the_end(reload_now: &tokio::sync::Notify) -> anyhow::Result<()> {
    let listen = |kind| signal(kind).context("cannot listen for signals");
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut hang_up = listen(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hang_up.recv() => reload_now.notify_one(),
        }
    }
}
