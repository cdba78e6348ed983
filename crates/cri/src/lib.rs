//! CRI v1 in front of the lifecycle: messages in, admitted specs on, views out.
//!
//! Owns: the two gRPC services, one file per RPC; admission; the mapping of error kinds to gRPC.
//! Must not know: how anything is done. Lists and status are answered from the lifecycle's views,
//! without waiting for a shim, a plugin or a disk.
//!
//! ```text
//!   message ──▶ admit ──▶ lifecycle::Node ──▶ views ──▶ describe ──▶ message
//!                              images::Store ──────────▶
//!                              kernel files ──▶ stats ──▶
//! ```

pub mod admit;
mod call;
mod describe;
mod error;
mod filter;
mod image_service;
mod messages;
mod metrics;
mod parts;
mod restore;
mod rpc;
mod runtime_service;
mod sessions;
mod stats;

use std::sync::Arc;

use berth_lifecycle::{Handler, PodView};
use berth_proto::cri::v1::image_service_server::ImageServiceServer;
use berth_proto::cri::v1::runtime_service_server::RuntimeServiceServer;

pub use error::{Error, code_of, status};
pub use parts::{Condition, Conditions, Observe, Parts, Restore, SetPodCidr};
pub use sessions::Sessions;

/// Largest request taken: configurations with many mounts and annotations are far below it.
const LARGEST_REQUEST: usize = 16 << 20;

/// Both services of CRI. Cheap to clone.
#[derive(Clone)]
pub struct Cri {
    parts: Arc<Parts>,
    samples: Arc<stats::Samples>,
    /// Where writable layers are; it never changes.
    layers: Arc<str>,
}

impl Cri {
    /// The services over these parts.
    pub fn new(parts: Parts) -> Self {
        let layers = parts.images.container_fs().mountpoint.to_string_lossy().into();
        Self { parts: Arc::new(parts), samples: Arc::default(), layers }
    }

    /// What admission has to know for pods of this handler; the lifecycle refuses what is none.
    fn rules(&self, handler: Option<&Handler>) -> admit::Rules {
        admit::Rules {
            systemd_cgroups: self.parts.systemd_cgroups,
            recursive_read_only: handler.is_some_and(|known| known.facts.recursive_read_only),
            user_namespaces: self.parts.user_namespaces,
        }
    }

    /// Where clients find their streams.
    fn streaming(&self) -> Result<&berth_streaming::Server, Error> {
        self.parts.streaming.as_ref().map_err(|why| Error::NoStreaming(why.clone()))
    }

    /// The shim of a pod as tools know it, for verbose information.
    fn runtime_type(&self, pod: &PodView) -> String {
        let handler = self.parts.node.handler_of(pod);
        handler.map(|handler| describe::runtime_type(&handler.shim)).unwrap_or_default()
    }

    /// The runtime service, to be added to a server.
    ///
    /// Answers are not limited here: an ExecSync may carry 16 MiB of each stream, and who cannot
    /// take that much says so itself.
    pub fn runtime_service(&self) -> RuntimeServiceServer<Self> {
        RuntimeServiceServer::new(self.clone())
            .max_decoding_message_size(LARGEST_REQUEST)
            .max_encoding_message_size(usize::MAX)
    }

    /// The image service, to be added to a server.
    pub fn image_service(&self) -> ImageServiceServer<Self> {
        ImageServiceServer::new(self.clone())
            .max_decoding_message_size(LARGEST_REQUEST)
            .max_encoding_message_size(usize::MAX)
    }
}
