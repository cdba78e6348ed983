//! The Sandbox service: the pod itself, where the daemon knows that a shim can be one.

use std::sync::Arc;

use async_trait::async_trait;
use berth_proto::{sandbox as wire, sandbox_ttrpc, types};
use protobuf::MessageField;
use ttrpc::r#async::TtrpcContext;

use crate::messages::{self, timestamp};
use crate::pod::{Pod, finished};
use crate::runtime::SandboxRequest;

pub(crate) struct Sandbox(pub(crate) Arc<Pod>);

#[async_trait]
impl sandbox_ttrpc::Sandbox for Sandbox {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: wire::CreateSandboxRequest,
    ) -> ttrpc::Result<wire::CreateSandboxResponse> {
        let wanted = SandboxRequest {
            id: request.sandbox_id,
            bundle: request.bundle_path.into(),
            netns: request.netns_path.into(),
            pod: messages::pod(request.options.as_ref())?,
        };
        let pod = Arc::clone(&self.0);
        finished(async move {
            pod.runtime.create_sandbox(wanted).await?;
            pod.lifetime.belongs_to_sandbox();
            Ok(wire::CreateSandboxResponse::new())
        })
        .await
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        _: wire::StartSandboxRequest,
    ) -> ttrpc::Result<wire::StartSandboxResponse> {
        let pod = Arc::clone(&self.0);
        finished(async move {
            let facts = pod.runtime.start_sandbox().await?;
            Ok(wire::StartSandboxResponse {
                pid: facts.pid,
                created_at: timestamp(facts.created),
                ..Default::default()
            })
        })
        .await
    }

    async fn platform(
        &self,
        _: &TtrpcContext,
        _: wire::PlatformRequest,
    ) -> ttrpc::Result<wire::PlatformResponse> {
        let platform = types::Platform {
            os: "linux".to_owned(),
            // Go's names, which containerd compares with.
            architecture: match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            }
            .to_owned(),
            ..Default::default()
        };
        let platform = MessageField::some(platform);
        Ok(wire::PlatformResponse { platform, ..Default::default() })
    }

    async fn stop_sandbox(
        &self,
        _: &TtrpcContext,
        _: wire::StopSandboxRequest,
    ) -> ttrpc::Result<wire::StopSandboxResponse> {
        let pod = Arc::clone(&self.0);
        finished(async move {
            pod.runtime.stop_sandbox().await?;
            Ok(wire::StopSandboxResponse::new())
        })
        .await
    }

    async fn wait_sandbox(
        &self,
        _: &TtrpcContext,
        _: wire::WaitSandboxRequest,
    ) -> ttrpc::Result<wire::WaitSandboxResponse> {
        let ended = self.0.runtime.wait_sandbox().await.map_err(|e| crate::error::to_wire(&e))?;
        Ok(wire::WaitSandboxResponse {
            exit_status: ended.code,
            exited_at: timestamp(ended.at),
            ..Default::default()
        })
    }

    async fn sandbox_status(
        &self,
        _: &TtrpcContext,
        request: wire::SandboxStatusRequest,
    ) -> ttrpc::Result<wire::SandboxStatusResponse> {
        let facts = self.0.runtime.sandbox().map_err(|e| crate::error::to_wire(&e))?;
        // CRI's words for the two states.
        let state = if facts.ready { "SANDBOX_READY" } else { "SANDBOX_NOTREADY" };
        let mut response = wire::SandboxStatusResponse {
            sandbox_id: request.sandbox_id,
            pid: facts.pid,
            state: state.to_owned(),
            created_at: timestamp(facts.created),
            exited_at: facts.ended.map_or_else(MessageField::none, |ended| timestamp(ended.at)),
            ..Default::default()
        };
        if request.verbose {
            response.info.insert("shimPid".to_owned(), std::process::id().to_string());
        }
        Ok(response)
    }

    async fn ping_sandbox(
        &self,
        _: &TtrpcContext,
        _: wire::PingRequest,
    ) -> ttrpc::Result<wire::PingResponse> {
        Ok(wire::PingResponse::new())
    }

    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        _: wire::ShutdownSandboxRequest,
    ) -> ttrpc::Result<wire::ShutdownSandboxResponse> {
        let pod = Arc::clone(&self.0);
        finished(async move {
            // A shim that ends leaves nothing behind that only it can reap.
            pod.runtime.stop_sandbox().await?;
            pod.lifetime.end();
            Ok(wire::ShutdownSandboxResponse::new())
        })
        .await
    }

    async fn sandbox_metrics(
        &self,
        _: &TtrpcContext,
        request: wire::SandboxMetricsRequest,
    ) -> ttrpc::Result<wire::SandboxMetricsResponse> {
        let pod = Arc::clone(&self.0);
        finished(async move {
            let metrics = pod.runtime.metrics(None).await?;
            let metric = types::Metric {
                timestamp: timestamp(std::time::SystemTime::now()),
                id: request.sandbox_id,
                data: MessageField::some(metrics.into_any()),
                ..Default::default()
            };
            let metrics = MessageField::some(metric);
            Ok(wire::SandboxMetricsResponse { metrics, ..Default::default() })
        })
        .await
    }
}
