//! Which service a call is for: gRPC paths are `/<service>/<method>`.

use std::convert::Infallible;
use std::task::{Context, Poll};

use berth_cri::Cri;
use berth_proto::cri::v1::image_service_server::ImageServiceServer;
use berth_proto::cri::v1::runtime_service_server::RuntimeServiceServer;
use berth_proto::node::v1::node_server::NodeServer;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{BoxFuture, Service};
use tonic::server::NamedService;

use crate::node_service::NodeService;

/// Everything that is served on the socket.
#[derive(Clone)]
pub(super) struct Services {
    runtime: RuntimeServiceServer<Cri>,
    image: ImageServiceServer<Cri>,
    node: NodeServer<NodeService>,
}

impl Services {
    /// CRI's two services and our own.
    pub(super) fn new(cri: &Cri, node: NodeServer<NodeService>) -> Self {
        Self { runtime: cri.runtime_service(), image: cri.image_service(), node }
    }
}

impl Service<Request<Body>> for Services {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match request.uri().path().split('/').nth(1) {
            Some(RuntimeServiceServer::<Cri>::NAME) => self.runtime.call(request),
            Some(ImageServiceServer::<Cri>::NAME) => self.image.call(request),
            Some(NodeServer::<NodeService>::NAME) => self.node.call(request),
            other => {
                let text = format!("there is no service {:?} here", other.unwrap_or_default());
                let response = berth_cri::status(tonic::Code::Unimplemented, &text).into_http();
                Box::pin(std::future::ready(Ok(response)))
            }
        }
    }
}
