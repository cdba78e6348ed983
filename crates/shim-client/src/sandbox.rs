//! The Sandbox service, for shims that have it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use berth_proto::sandbox as wire;
use futures_util::TryFutureExt as _;
use protobuf::Message;

use crate::shim::{Method, lost_is_done};
use crate::types::time;
use crate::{Any, Exited, Mount, Result, Shim};

/// A sandbox to create.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CreateSandbox {
    /// Its id.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// What the shim mounts as its rootfs.
    pub rootfs: Vec<Mount>,
    /// The CRI `PodSandboxConfig`.
    pub options: Option<Any>,
    /// The pinned network namespace; none is the node's.
    pub netns: Option<PathBuf>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

/// A sandbox that was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SandboxStarted {
    /// The pid of its process; 0 if it has none.
    pub pid: u32,
    /// When it was created.
    pub created: Option<SystemTime>,
}

/// What a shim says of its sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxStatus {
    /// The pid of its process; 0 if it has none.
    pub pid: u32,
    /// The state, in the shim's words (`SANDBOX_READY`, `SANDBOX_NOTREADY`).
    pub state: String,
    /// Whatever else it tells.
    pub info: BTreeMap<String, String>,
    /// When it was created.
    pub created: Option<SystemTime>,
    /// When it ended.
    pub exited: Option<SystemTime>,
}

impl Shim {
    /// CreateSandbox.
    ///
    /// # Errors
    /// As each call; kind Unimplemented if the shim has no Sandbox service.
    pub async fn create_sandbox(&self, create: CreateSandbox) -> Result<()> {
        let request = wire::CreateSandboxRequest {
            sandbox_id: create.id.clone(),
            bundle_path: create.bundle.to_string_lossy().into_owned(),
            rootfs: create.rootfs.into_iter().map(Mount::into_wire).collect(),
            options: create.options.map(Any::into_wire).into(),
            netns_path: create
                .netns
                .map(|path| path.to_string_lossy().into_owned())
                .unwrap_or_default(),
            annotations: create.annotations.into_iter().collect(),
            ..Default::default()
        };
        let limit = Some(self.deadlines().create);
        self.call(sandbox("CreateSandbox"), &create.id, limit, &request)
            .await
            .map(|_: wire::CreateSandboxResponse| ())
    }

    /// StartSandbox.
    ///
    /// # Errors
    /// As each call.
    pub async fn start_sandbox(&self, id: &str) -> Result<SandboxStarted> {
        let request = wire::StartSandboxRequest { sandbox_id: id.into(), ..Default::default() };
        let limit = Some(self.deadlines().create);
        let reply: wire::StartSandboxResponse =
            self.call(sandbox("StartSandbox"), id, limit, &request).await?;
        Ok(SandboxStarted { pid: reply.pid, created: time(reply.created_at.as_ref()) })
    }

    /// StopSandbox: within `grace` seconds, to which the call's own deadline is added.
    ///
    /// # Errors
    /// As each call.
    pub async fn stop_sandbox(&self, id: &str, grace: u32) -> Result<()> {
        let request = wire::StopSandboxRequest {
            sandbox_id: id.into(),
            timeout_secs: grace,
            ..Default::default()
        };
        let limit = self.deadlines().call + std::time::Duration::from_secs(grace.into());
        self.call(sandbox("StopSandbox"), id, Some(limit), &request)
            .await
            .map(|_: wire::StopSandboxResponse| ())
    }

    /// WaitSandbox: until the sandbox has ended. May be dropped at any time.
    ///
    /// # Errors
    /// As each call, but without a deadline.
    pub fn wait_sandbox<'a>(
        &'a self,
        id: &'a str,
    ) -> impl Future<Output = Result<Exited>> + use<'a> {
        // No async fn: its future would keep the request for as long as the pod lives.
        let request = wire::WaitSandboxRequest { sandbox_id: id.into(), ..Default::default() };
        let wait = self.call(sandbox("WaitSandbox"), id, None, &request);
        wait.map_ok(|reply: wire::WaitSandboxResponse| Exited {
            status: reply.exit_status,
            at: time(reply.exited_at.as_ref()),
        })
    }

    /// SandboxStatus.
    ///
    /// # Errors
    /// As each call.
    pub async fn sandbox_status(&self, id: &str, verbose: bool) -> Result<SandboxStatus> {
        let request =
            wire::SandboxStatusRequest { sandbox_id: id.into(), verbose, ..Default::default() };
        let reply: wire::SandboxStatusResponse =
            self.sandbox_call("SandboxStatus", id, &request).await?;
        Ok(SandboxStatus {
            pid: reply.pid,
            state: reply.state,
            info: reply.info.into_iter().collect(),
            created: time(reply.created_at.as_ref()),
            exited: time(reply.exited_at.as_ref()),
        })
    }

    /// PingSandbox.
    ///
    /// # Errors
    /// As each call.
    pub async fn ping_sandbox(&self, id: &str) -> Result<()> {
        let request = wire::PingRequest { sandbox_id: id.into(), ..Default::default() };
        self.sandbox_call("PingSandbox", id, &request).await.map(|_: wire::PingResponse| ())
    }

    /// Platform: operating system and architecture.
    ///
    /// # Errors
    /// As each call.
    pub async fn platform(&self, id: &str) -> Result<(String, String)> {
        let request = wire::PlatformRequest { sandbox_id: id.into(), ..Default::default() };
        let reply: wire::PlatformResponse = self.sandbox_call("Platform", id, &request).await?;
        let platform = reply.platform.unwrap_or_default();
        Ok((platform.os, platform.architecture))
    }

    /// SandboxMetrics.
    ///
    /// # Errors
    /// As each call.
    pub async fn sandbox_metrics(&self, id: &str) -> Result<Option<Any>> {
        let request = wire::SandboxMetricsRequest { sandbox_id: id.into(), ..Default::default() };
        let reply: wire::SandboxMetricsResponse =
            self.sandbox_call("SandboxMetrics", id, &request).await?;
        let data = reply.metrics.into_option().and_then(|metric| metric.data.into_option());
        Ok(data.map(Any::from))
    }

    /// ShutdownSandbox: the shim ends. One that ends so fast that its reply is lost has done so.
    ///
    /// # Errors
    /// As each call, but not when the connection is lost.
    pub async fn shutdown_sandbox(&self, id: &str) -> Result<()> {
        let request = wire::ShutdownSandboxRequest { sandbox_id: id.into(), ..Default::default() };
        let done: Result<wire::ShutdownSandboxResponse> =
            self.sandbox_call("ShutdownSandbox", id, &request).await;
        lost_is_done(done).map(drop)
    }

    async fn sandbox_call<A: Message, B: Message>(
        &self,
        name: &'static str,
        id: &str,
        request: &A,
    ) -> Result<B> {
        self.call(sandbox(name), id, Some(self.deadlines().call), request).await
    }
}

fn sandbox(name: &'static str) -> Method {
    Method { service: "containerd.runtime.sandbox.v1.Sandbox", name }
}
