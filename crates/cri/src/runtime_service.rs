//! The runtime service: each method leads to its file in `rpc`.

use berth_proto::cri::v1 as cri;
use berth_proto::cri::v1::runtime_service_server::RuntimeService;
use tonic::{Request, Response, Status};

use crate::call::Call;
use crate::messages::Messages;
use crate::{Cri, rpc};

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl RuntimeService for Cri {
    type StreamPodSandboxesStream = Messages<cri::StreamPodSandboxesResponse>;
    type StreamContainersStream = Messages<cri::StreamContainersResponse>;
    type StreamContainerStatsStream = Messages<cri::StreamContainerStatsResponse>;
    type StreamPodSandboxStatsStream = Messages<cri::StreamPodSandboxStatsResponse>;
    type GetContainerEventsStream = Messages<cri::ContainerEventResponse>;
    type StreamPodSandboxMetricsStream = Messages<cri::StreamPodSandboxMetricsResponse>;

    async fn version(&self, request: Request<cri::VersionRequest>) -> Reply<cri::VersionResponse> {
        let request = request.into_inner();
        let call = Call::read("Version");
        self.call(call, async { Ok(rpc::version::version(self, &request)) }).await
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<cri::RunPodSandboxRequest>,
    ) -> Reply<cri::RunPodSandboxResponse> {
        let request = request.into_inner();
        let call = Call::change("RunPodSandbox").subject(pod_name(request.config.as_ref()));
        let work = rpc::run_pod_sandbox::run_pod_sandbox(self, request);
        self.creating(call, work, |call, made| call.pod(&made.pod_sandbox_id)).await
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<cri::StopPodSandboxRequest>,
    ) -> Reply<cri::StopPodSandboxResponse> {
        let request = request.into_inner();
        let call = Call::change("StopPodSandbox").pod(&request.pod_sandbox_id);
        self.call(call, rpc::stop_pod_sandbox::stop_pod_sandbox(self, request)).await
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<cri::RemovePodSandboxRequest>,
    ) -> Reply<cri::RemovePodSandboxResponse> {
        let request = request.into_inner();
        let call = Call::change("RemovePodSandbox").pod(&request.pod_sandbox_id);
        self.call(call, rpc::remove_pod_sandbox::remove_pod_sandbox(self, request)).await
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<cri::PodSandboxStatusRequest>,
    ) -> Reply<cri::PodSandboxStatusResponse> {
        let request = request.into_inner();
        let call = Call::read("PodSandboxStatus").pod(&request.pod_sandbox_id);
        self.call(call, async { rpc::pod_sandbox_status::pod_sandbox_status(self, &request) }).await
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<cri::ListPodSandboxRequest>,
    ) -> Reply<cri::ListPodSandboxResponse> {
        let request = request.into_inner();
        let call = Call::read("ListPodSandbox");
        self.call(call, async { Ok(rpc::list_pod_sandbox::list_pod_sandbox(self, &request)) }).await
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<cri::StreamPodSandboxesRequest>,
    ) -> Reply<Self::StreamPodSandboxesStream> {
        let request = request.into_inner();
        let call = Call::read("StreamPodSandboxes");
        let work = async { Ok(rpc::stream_pod_sandboxes::stream_pod_sandboxes(self, &request)) };
        self.call(call, work).await
    }

    async fn create_container(
        &self,
        request: Request<cri::CreateContainerRequest>,
    ) -> Reply<cri::CreateContainerResponse> {
        let request = request.into_inner();
        let call = Call::change("CreateContainer")
            .pod(&request.pod_sandbox_id)
            .subject(container_name(request.config.as_ref()));
        let work = rpc::create_container::create_container(self, request);
        self.creating(call, work, |call, made| call.container(&made.container_id)).await
    }

    async fn start_container(
        &self,
        request: Request<cri::StartContainerRequest>,
    ) -> Reply<cri::StartContainerResponse> {
        let request = request.into_inner();
        let call = Call::change("StartContainer").container(&request.container_id);
        self.call(call, rpc::start_container::start_container(self, request)).await
    }

    async fn stop_container(
        &self,
        request: Request<cri::StopContainerRequest>,
    ) -> Reply<cri::StopContainerResponse> {
        let request = request.into_inner();
        let call = Call::change("StopContainer").container(&request.container_id);
        self.call(call, rpc::stop_container::stop_container(self, request)).await
    }

    async fn remove_container(
        &self,
        request: Request<cri::RemoveContainerRequest>,
    ) -> Reply<cri::RemoveContainerResponse> {
        let request = request.into_inner();
        let call = Call::change("RemoveContainer").container(&request.container_id);
        self.call(call, rpc::remove_container::remove_container(self, request)).await
    }

    async fn list_containers(
        &self,
        request: Request<cri::ListContainersRequest>,
    ) -> Reply<cri::ListContainersResponse> {
        let request = request.into_inner();
        let call = Call::read("ListContainers");
        self.call(call, async { Ok(rpc::list_containers::list_containers(self, &request)) }).await
    }

    async fn stream_containers(
        &self,
        request: Request<cri::StreamContainersRequest>,
    ) -> Reply<Self::StreamContainersStream> {
        let request = request.into_inner();
        let call = Call::read("StreamContainers");
        let work = async { Ok(rpc::stream_containers::stream_containers(self, &request)) };
        self.call(call, work).await
    }

    async fn container_status(
        &self,
        request: Request<cri::ContainerStatusRequest>,
    ) -> Reply<cri::ContainerStatusResponse> {
        let request = request.into_inner();
        let call = Call::read("ContainerStatus").container(&request.container_id);
        self.call(call, rpc::container_status::container_status(self, request)).await
    }

    async fn update_container_resources(
        &self,
        request: Request<cri::UpdateContainerResourcesRequest>,
    ) -> Reply<cri::UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        let call = Call::change("UpdateContainerResources").container(&request.container_id);
        self.call(call, rpc::update_container_resources::update_container_resources(self, request))
            .await
    }

    async fn reopen_container_log(
        &self,
        request: Request<cri::ReopenContainerLogRequest>,
    ) -> Reply<cri::ReopenContainerLogResponse> {
        let request = request.into_inner();
        let call = Call::change("ReopenContainerLog").container(&request.container_id);
        self.call(call, rpc::reopen_container_log::reopen_container_log(self, request)).await
    }

    async fn exec_sync(
        &self,
        request: Request<cri::ExecSyncRequest>,
    ) -> Reply<cri::ExecSyncResponse> {
        let request = request.into_inner();
        let call = Call::read("ExecSync").container(&request.container_id);
        self.call(call, rpc::exec_sync::exec_sync(self, request)).await
    }

    async fn exec(&self, request: Request<cri::ExecRequest>) -> Reply<cri::ExecResponse> {
        let request = request.into_inner();
        let call = Call::read("Exec").container(&request.container_id);
        self.call(call, async { rpc::exec::exec(self, request) }).await
    }

    async fn attach(&self, request: Request<cri::AttachRequest>) -> Reply<cri::AttachResponse> {
        let request = request.into_inner();
        let call = Call::read("Attach").container(&request.container_id);
        self.call(call, async { rpc::attach::attach(self, &request) }).await
    }

    async fn port_forward(
        &self,
        request: Request<cri::PortForwardRequest>,
    ) -> Reply<cri::PortForwardResponse> {
        let request = request.into_inner();
        let call = Call::read("PortForward").pod(&request.pod_sandbox_id);
        self.call(call, async { rpc::port_forward::port_forward(self, &request) }).await
    }

    async fn container_stats(
        &self,
        request: Request<cri::ContainerStatsRequest>,
    ) -> Reply<cri::ContainerStatsResponse> {
        let request = request.into_inner();
        let call = Call::read("ContainerStats").container(&request.container_id);
        self.call(call, rpc::container_stats::container_stats(self, request)).await
    }

    async fn list_container_stats(
        &self,
        request: Request<cri::ListContainerStatsRequest>,
    ) -> Reply<cri::ListContainerStatsResponse> {
        let request = request.into_inner();
        let call = Call::read("ListContainerStats");
        self.call(call, rpc::list_container_stats::list_container_stats(self, request)).await
    }

    async fn stream_container_stats(
        &self,
        request: Request<cri::StreamContainerStatsRequest>,
    ) -> Reply<Self::StreamContainerStatsStream> {
        let request = request.into_inner();
        let call = Call::read("StreamContainerStats");
        let work =
            async { Ok(rpc::stream_container_stats::stream_container_stats(self, &request)) };
        self.call(call, work).await
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<cri::PodSandboxStatsRequest>,
    ) -> Reply<cri::PodSandboxStatsResponse> {
        let request = request.into_inner();
        let call = Call::read("PodSandboxStats").pod(&request.pod_sandbox_id);
        self.call(call, rpc::pod_sandbox_stats::pod_sandbox_stats(self, request)).await
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<cri::ListPodSandboxStatsRequest>,
    ) -> Reply<cri::ListPodSandboxStatsResponse> {
        let request = request.into_inner();
        let call = Call::read("ListPodSandboxStats");
        self.call(call, rpc::list_pod_sandbox_stats::list_pod_sandbox_stats(self, request)).await
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<cri::StreamPodSandboxStatsRequest>,
    ) -> Reply<Self::StreamPodSandboxStatsStream> {
        let request = request.into_inner();
        let call = Call::read("StreamPodSandboxStats");
        let work =
            async { Ok(rpc::stream_pod_sandbox_stats::stream_pod_sandbox_stats(self, &request)) };
        self.call(call, work).await
    }

    async fn update_runtime_config(
        &self,
        request: Request<cri::UpdateRuntimeConfigRequest>,
    ) -> Reply<cri::UpdateRuntimeConfigResponse> {
        let request = request.into_inner();
        let call = Call::change("UpdateRuntimeConfig");
        self.call(call, rpc::update_runtime_config::update_runtime_config(self, request)).await
    }

    async fn status(&self, request: Request<cri::StatusRequest>) -> Reply<cri::StatusResponse> {
        let request = request.into_inner();
        let call = Call::read("Status");
        self.call(call, async { Ok(rpc::status::status(self, &request).await) }).await
    }

    async fn checkpoint_container(
        &self,
        request: Request<cri::CheckpointContainerRequest>,
    ) -> Reply<cri::CheckpointContainerResponse> {
        let request = request.into_inner();
        let call = Call::change("CheckpointContainer").container(&request.container_id);
        self.call(call, rpc::checkpoint_container::checkpoint_container(self, request)).await
    }

    async fn get_container_events(
        &self,
        request: Request<cri::GetEventsRequest>,
    ) -> Reply<Self::GetContainerEventsStream> {
        let request = request.into_inner();
        let call = Call::read("GetContainerEvents");
        let work = async { Ok(rpc::get_container_events::get_container_events(self, request)) };
        self.call(call, work).await
    }

    async fn list_metric_descriptors(
        &self,
        request: Request<cri::ListMetricDescriptorsRequest>,
    ) -> Reply<cri::ListMetricDescriptorsResponse> {
        let request = request.into_inner();
        let call = Call::read("ListMetricDescriptors");
        let work = async { Ok(rpc::list_metric_descriptors::list_metric_descriptors(&request)) };
        self.call(call, work).await
    }

    async fn list_pod_sandbox_metrics(
        &self,
        request: Request<cri::ListPodSandboxMetricsRequest>,
    ) -> Reply<cri::ListPodSandboxMetricsResponse> {
        let request = request.into_inner();
        let call = Call::read("ListPodSandboxMetrics");
        self.call(call, rpc::list_pod_sandbox_metrics::list_pod_sandbox_metrics(self, request))
            .await
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        request: Request<cri::StreamPodSandboxMetricsRequest>,
    ) -> Reply<Self::StreamPodSandboxMetricsStream> {
        let request = request.into_inner();
        let call = Call::read("StreamPodSandboxMetrics");
        let work = async {
            Ok(rpc::stream_pod_sandbox_metrics::stream_pod_sandbox_metrics(self, &request))
        };
        self.call(call, work).await
    }

    async fn runtime_config(
        &self,
        request: Request<cri::RuntimeConfigRequest>,
    ) -> Reply<cri::RuntimeConfigResponse> {
        let request = request.into_inner();
        let call = Call::read("RuntimeConfig");
        self.call(call, async { Ok(rpc::runtime_config::runtime_config(self, &request)) }).await
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<cri::UpdatePodSandboxResourcesRequest>,
    ) -> Reply<cri::UpdatePodSandboxResourcesResponse> {
        let request = request.into_inner();
        let call = Call::change("UpdatePodSandboxResources").pod(&request.pod_sandbox_id);
        let work = rpc::update_pod_sandbox_resources::update_pod_sandbox_resources(self, request);
        self.call(call, work).await
    }
}

fn pod_name(config: Option<&cri::PodSandboxConfig>) -> String {
    let metadata = config.and_then(|config| config.metadata.as_ref());
    metadata.map(|m| format!("{}/{}#{}", m.namespace, m.name, m.attempt)).unwrap_or_default()
}

fn container_name(config: Option<&cri::ContainerConfig>) -> String {
    let metadata = config.and_then(|config| config.metadata.as_ref());
    metadata.map(|m| format!("{}#{}", m.name, m.attempt)).unwrap_or_default()
}
