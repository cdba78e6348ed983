//! Our own two services: what Task has no call for.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use berth_process::Attachment;
use berth_proto::{berth_shim as wire, berth_shim_ttrpc};
use protobuf::well_known_types::empty::Empty;
use ttrpc::r#async::TtrpcContext;

use crate::error::{status, to_wire};
use crate::messages::target;
use crate::pod::{Pod, finished};

pub(crate) struct Own(pub(crate) Arc<Pod>);

#[async_trait]
impl berth_shim_ttrpc::Stdio for Own {
    async fn reopen_log(
        &self,
        _: &TtrpcContext,
        request: wire::ReopenLogRequest,
    ) -> ttrpc::Result<Empty> {
        let pod = Arc::clone(&self.0);
        finished(async move {
            pod.runtime.reopen_log(&request.id).await?;
            Ok(Empty::new())
        })
        .await
    }

    async fn attach(&self, _: &TtrpcContext, request: wire::AttachRequest) -> ttrpc::Result<Empty> {
        let pod = Arc::clone(&self.0);
        let path = |text: String| Some(text).filter(|text| !text.is_empty()).map(PathBuf::from);
        finished(async move {
            let what = Attachment {
                id: request.attachment,
                cut: request.cut.into(),
                stdin: path(request.stdin),
                stdout: path(request.stdout),
                stderr: path(request.stderr),
            };
            pod.runtime.attach(&request.id, what).await?;
            Ok(Empty::new())
        })
        .await
    }

    async fn detach(&self, _: &TtrpcContext, request: wire::DetachRequest) -> ttrpc::Result<Empty> {
        let pod = Arc::clone(&self.0);
        finished(async move {
            pod.runtime.detach(&request.id, &request.attachment).await?;
            Ok(Empty::new())
        })
        .await
    }
}

#[async_trait]
impl berth_shim_ttrpc::Facts for Own {
    async fn exit(
        &self,
        _: &TtrpcContext,
        request: wire::ExitRequest,
    ) -> ttrpc::Result<wire::ExitResponse> {
        let of = target(request.id, String::new());
        let facts = self.0.runtime.facts(&of).map_err(|e| to_wire(&e))?;
        let Some(ended) = facts.ended else {
            let message = format!("container {} has not ended", of.container);
            return Err(status(ttrpc::Code::FAILED_PRECONDITION, message));
        };
        Ok(wire::ExitResponse {
            exit_status: ended.code,
            oom_killed: ended.oom_kills > 0,
            oom_count: ended.oom_kills,
            dropped_log_lines: ended.dropped_lines,
            ..Default::default()
        })
    }
}
