//! The operator's commands: each asks the daemon, or reads the configuration.

pub(crate) mod config;
pub(crate) mod image;
pub(crate) mod publish;
pub(crate) mod status;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::cli::Daemon;
use crate::config::Loaded;

/// Connects to the daemon's socket: the given one, or the configured one.
pub(crate) async fn connect(config: Option<&Path>, daemon: &Daemon) -> anyhow::Result<Channel> {
    let socket: PathBuf = match &daemon.socket {
        Some(socket) => socket.clone(),
        None => Loaded::read(config)?.check()?.socket,
    };
    let path = socket.clone();
    // The address is for HTTP's sake only.
    Endpoint::from_static("http://berth")
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move {
                let stream = tokio::net::UnixStream::connect(path).await?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
            }
        }))
        .await
        .with_context(|| {
            format!("no daemon answers on {}: is `berth serve` running?", socket.display())
        })
}

/// Answers of any size: nodes can be full.
pub(crate) const UNLIMITED: usize = usize::MAX;
