//! The server process: what `start` leaves behind, one per pod.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use berth_process::Reaper;
use berth_proto::{berth_shim_ttrpc, sandbox_ttrpc};
use ttrpc::r#async::Server;
use ttrpc::r#async::transport::Listener;

use crate::error::{Error, Result};
use crate::events::Events;
use crate::own::Own;
use crate::pod::Pod;
use crate::runtime::{Context, RuntimeFactory};
use crate::sandbox::Sandbox;
use crate::task;

/// Between the answer to a shutdown and the end: for the answer to be written. It can be read from
/// the socket when this process has gone.
const FAREWELL: Duration = Duration::from_millis(10);

/// What `start` hands over to the server.
pub(crate) struct Inherited {
    pub(crate) listener: UnixListener,
    /// Told when the server answers.
    pub(crate) ready: OwnedFd,
}

/// A server that answers.
pub(crate) struct Serving {
    pod: Arc<Pod>,
    socket: PathBuf,
    /// It ends with this.
    _server: Server,
}

/// Begins to serve.
pub(crate) async fn begin<F: RuntimeFactory>(
    context: Context,
    inherited: Inherited,
    socket: PathBuf,
) -> Result<Serving> {
    let reaper = Reaper::start()?;
    let address = std::env::var("TTRPC_ADDRESS").unwrap_or_default();
    let events = Events::to(&address, &context.namespace);
    let runtime = F::make(context.clone(), reaper)?;
    let pod = Arc::new(Pod::new(runtime, context, events));
    let listener =
        Listener::try_from(inherited.listener).map_err(|e| Error::file("listen on", &socket, e))?;
    let own = Arc::new(Own(Arc::clone(&pod)));
    let mut server = Server::new()
        .add_listener(listener)
        .register_service(task::services(&pod))
        .register_service(sandbox_ttrpc::create_sandbox(Arc::new(Sandbox(Arc::clone(&pod)))))
        .register_service(berth_shim_ttrpc::create_stdio(Arc::clone(&own) as _))
        .register_service(berth_shim_ttrpc::create_facts(own));
    server.start().await?;
    // If `start` has died meanwhile, nobody knows this server; its leaf cgroup is killed then.
    let _ = File::from(inherited.ready).write_all(b"!");
    Ok(Serving { pod, socket, _server: server })
}

impl Serving {
    /// Waits until the pod is over; removes the socket then.
    pub(crate) async fn until_over(&self) {
        self.pod.lifetime.over().await;
        // Whoever looks for the pod from now on finds nobody.
        let _ = std::fs::remove_file(&self.socket);
        tokio::time::sleep(FAREWELL).await;
    }
}
