//! Berth's own service: what `berth status` and `berth image` ask.

use std::path::Path;
use std::time::Instant;

use berth_cri::{Condition, Conditions};
use berth_image::Store;
use berth_lifecycle::{Node, NodeReport};
use berth_proto::node::v1 as proto;
use berth_proto::node::v1::node_server;
use serde::Serialize;
use tonic::{Request, Response, Status};

/// What the service is made of.
pub(crate) struct NodeService {
    pub(crate) node: Node,
    pub(crate) images: Store,
    pub(crate) conditions: Conditions,
    pub(crate) since: Instant,
}

/// The whole answer.
#[derive(Serialize)]
struct NodeStatus {
    version: &'static str,
    pid: u32,
    uptime_seconds: u64,
    conditions: Vec<Condition>,
    images: usize,
    #[serde(flatten)]
    report: NodeReport,
}

#[tonic::async_trait]
impl node_server::Node for NodeService {
    async fn status(
        &self,
        _request: Request<proto::StatusRequest>,
    ) -> Result<Response<proto::StatusResponse>, Status> {
        let status = NodeStatus {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            uptime_seconds: self.since.elapsed().as_secs(),
            conditions: (self.conditions)().await,
            images: self.images.list().len(),
            report: self.node.report(),
        };
        let json = serde_json::to_vec(&status)
            .map_err(|error| Status::internal(format!("cannot write the status: {error}")))?;
        Ok(Response::new(proto::StatusResponse { json }))
    }

    async fn import_image(
        &self,
        request: Request<proto::ImportImageRequest>,
    ) -> Result<Response<proto::ImportImageResponse>, Status> {
        let request = request.into_inner();
        if !request.path.starts_with('/') {
            let text = format!("path is {:?}: give an absolute path", request.path);
            return Err(berth_cri::status(tonic::Code::InvalidArgument, &text));
        }
        let names: Vec<String> =
            Some(request.name).filter(|name| !name.is_empty()).into_iter().collect();
        let imported = self
            .images
            .import(Path::new(&request.path), &names)
            .await
            .map_err(|error| Status::from(berth_cri::Error::from(error)))?;
        let images = imported.into_iter().map(|image| {
            tracing::info!(image = %image.id, names = ?image.names, "image imported");
            proto::ImportedImage { id: image.id.to_string(), names: image.names }
        });
        Ok(Response::new(proto::ImportImageResponse { images: images.collect() }))
    }

    async fn verify_images(
        &self,
        _: Request<proto::VerifyImagesRequest>,
    ) -> Result<Response<proto::VerifyImagesResponse>, Status> {
        let before = self.images.list();
        let damaged = self.images.verify().await;
        let damaged = damaged.map_err(|error| Status::from(berth_cri::Error::from(error)))?;
        let whole = self.images.list();
        let lost = before.iter().filter(|image| !whole.iter().any(|other| other.id == image.id));
        let images = lost.map(|image| {
            let mut names = image.repo_tags.iter().chain(&image.repo_digests);
            names.next().cloned().unwrap_or_else(|| image.id.to_string())
        });
        // None is lost to damage where there is none: it was removed meanwhile.
        let images = if damaged.is_empty() { Vec::new() } else { images.collect() };
        let layers = damaged.iter().map(ToString::to_string).collect();
        Ok(Response::new(proto::VerifyImagesResponse { layers, images }))
    }
}
