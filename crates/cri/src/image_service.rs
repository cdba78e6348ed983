//! The image service: each method leads to its file in `rpc`.

use berth_proto::cri::v1 as cri;
use berth_proto::cri::v1::image_service_server::ImageService;
use tonic::{Request, Response, Status};

use crate::call::Call;
use crate::messages::Messages;
use crate::{Cri, rpc};

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl ImageService for Cri {
    type StreamImagesStream = Messages<cri::StreamImagesResponse>;

    async fn list_images(
        &self,
        request: Request<cri::ListImagesRequest>,
    ) -> Reply<cri::ListImagesResponse> {
        let work = rpc::list_images::list_images(self, request.into_inner());
        self.call(Call::read("ListImages"), work).await
    }

    async fn image_status(
        &self,
        request: Request<cri::ImageStatusRequest>,
    ) -> Reply<cri::ImageStatusResponse> {
        let work = rpc::image_status::image_status(self, request.into_inner());
        self.call(Call::read("ImageStatus"), work).await
    }

    async fn pull_image(
        &self,
        request: Request<cri::PullImageRequest>,
    ) -> Reply<cri::PullImageResponse> {
        let request = request.into_inner();
        let call = Call::change("PullImage").subject(name(request.image.as_ref()));
        self.call(call, rpc::pull_image::pull_image(self, request)).await
    }

    async fn remove_image(
        &self,
        request: Request<cri::RemoveImageRequest>,
    ) -> Reply<cri::RemoveImageResponse> {
        let request = request.into_inner();
        let call = Call::change("RemoveImage").subject(name(request.image.as_ref()));
        self.call(call, rpc::remove_image::remove_image(self, request)).await
    }

    async fn image_fs_info(
        &self,
        request: Request<cri::ImageFsInfoRequest>,
    ) -> Reply<cri::ImageFsInfoResponse> {
        let work = rpc::image_fs_info::image_fs_info(self, request.into_inner());
        self.call(Call::read("ImageFsInfo"), work).await
    }

    async fn stream_images(
        &self,
        request: Request<cri::StreamImagesRequest>,
    ) -> Reply<Self::StreamImagesStream> {
        let work = async { rpc::stream_images::stream_images(self, request.into_inner()) };
        self.call(Call::read("StreamImages"), work).await
    }
}

fn name(image: Option<&cri::ImageSpec>) -> String {
    image.map(|image| image.image.clone()).unwrap_or_default()
}
