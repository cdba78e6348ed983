//! The messages that Berth speaks, generated from the .proto files in `proto/`.

mod shim;

pub use shim::*;

/// The Kubernetes Container Runtime Interface, over gRPC.
pub mod cri {
    /// Version 1, as of cri-api 0.36.4. Enum values and messages are documented there.
    #[allow(missing_docs, clippy::all, clippy::too_many_lines)]
    pub mod v1 {
        tonic::include_proto!("runtime.v1");
    }
}

/// Berth's own node service, for its command line, over gRPC.
pub mod node {
    /// Version 1.
    #[allow(missing_docs, clippy::all, clippy::too_many_lines)]
    pub mod v1 {
        tonic::include_proto!("berth.node.v1");
    }
}

/// The Node Resource Interface: what the daemon and its plugins say to each other, over ttrpc.
pub mod nri {
    /// Version 1alpha1, as of NRI 0.12.
    #[allow(missing_docs, clippy::all, clippy::too_many_lines)]
    pub mod v1alpha1 {
        tonic::include_proto!("nri.pkg.api.v1alpha1");
    }
    /// What ttrpc wraps a call and its answer in.
    #[allow(missing_docs, clippy::all)]
    pub mod ttrpc {
        tonic::include_proto!("ttrpc");
    }
}

// Credentials never reach a log: the generated Debug is left out for them.
impl std::fmt::Debug for cri::v1::AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}
