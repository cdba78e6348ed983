//! The Task service. Generation 2 has the same messages as generation 3, so one implementation is
//! registered under both names.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use berth_process::{Ended, LONGEST_CHECKPOINT, Target};
use berth_proto::{events as wire, runc_options, task_types, task_v3 as v3, task_v3_ttrpc};
use protobuf::MessageField;
use protobuf::well_known_types::empty::Empty;
use ttrpc::r#async::{Service, TtrpcContext};

use crate::messages::{self, invalid, pack, process_status, target, timestamp};
use crate::pod::{Pod, finished};

const V2: &str = "containerd.task.v2.Task";

/// Both generations of the service.
pub(crate) fn services(pod: &Arc<Pod>) -> HashMap<String, Service> {
    let make = || task_v3_ttrpc::create_task(Arc::new(Task(Arc::clone(pod))));
    let mut services = make();
    services.extend(make().into_values().map(|service| (V2.to_owned(), service)));
    services
}

struct Task(Arc<Pod>);

fn container(id: &str) -> Target {
    Target { container: id.to_owned(), exec: None }
}

#[async_trait]
impl task_v3_ttrpc::Task for Task {
    async fn create(
        &self,
        _: &TtrpcContext,
        request: v3::CreateTaskRequest,
    ) -> ttrpc::Result<v3::CreateTaskResponse> {
        let wanted = messages::container(&request)?;
        let options = messages::options(request.options.as_ref(), &self.0.namespace)?;
        let pod = Arc::clone(&self.0);
        finished(async move {
            let id = wanted.id.clone();
            let options = options.unwrap_or_else(|| pod.options.clone());
            let pid = pod.runtime.create(wanted, options).await?;
            pod.events.publish("/tasks/create", "TaskCreate", &created(request, pid));
            pod.watch(container(&id));
            Ok(v3::CreateTaskResponse { pid, ..Default::default() })
        })
        .await
    }

    async fn start(
        &self,
        _: &TtrpcContext,
        request: v3::StartRequest,
    ) -> ttrpc::Result<v3::StartResponse> {
        let target = target(request.id, request.exec_id);
        let pod = Arc::clone(&self.0);
        finished(async move {
            let gate = pod.gate(&target);
            let _open = gate.lock().await;
            let pid = pod.runtime.start(&target).await?;
            let container_id = target.container;
            match target.exec {
                None => {
                    let event = wire::TaskStart { container_id, pid, ..Default::default() };
                    pod.events.publish("/tasks/start", "TaskStart", &event);
                }
                Some(exec_id) => {
                    let event =
                        wire::TaskExecStarted { container_id, exec_id, pid, ..Default::default() };
                    pod.events.publish("/tasks/exec-started", "TaskExecStarted", &event);
                }
            }
            Ok(v3::StartResponse { pid, ..Default::default() })
        })
        .await
    }

    async fn exec(
        &self,
        _: &TtrpcContext,
        request: v3::ExecProcessRequest,
    ) -> ttrpc::Result<Empty> {
        let container_id = request.id.clone();
        let wanted = messages::exec(request)?;
        let pod = Arc::clone(&self.0);
        finished(async move {
            let exec_id = wanted.id.clone();
            pod.runtime.exec(&container_id, wanted).await?;
            let target = Target { container: container_id.clone(), exec: Some(exec_id.clone()) };
            let event = wire::TaskExecAdded { container_id, exec_id, ..Default::default() };
            pod.events.publish("/tasks/exec-added", "TaskExecAdded", &event);
            pod.watch(target);
            Ok(Empty::new())
        })
        .await
    }

    async fn delete(
        &self,
        _: &TtrpcContext,
        request: v3::DeleteRequest,
    ) -> ttrpc::Result<v3::DeleteResponse> {
        let target = target(request.id, request.exec_id);
        let pod = Arc::clone(&self.0);
        finished(async move {
            pod.announced(&target).await;
            let (pid, ended) = pod.runtime.delete(&target).await?;
            let (exit_status, exited_at) = ending(ended);
            let event = wire::TaskDelete {
                id: target.exec.unwrap_or_else(|| target.container.clone()),
                container_id: target.container,
                pid,
                exit_status,
                exited_at: exited_at.clone(),
                ..Default::default()
            };
            pod.events.publish("/tasks/delete", "TaskDelete", &event);
            Ok(v3::DeleteResponse { pid, exit_status, exited_at, ..Default::default() })
        })
        .await
    }

    async fn state(
        &self,
        _: &TtrpcContext,
        request: v3::StateRequest,
    ) -> ttrpc::Result<v3::StateResponse> {
        let of = target(request.id.clone(), request.exec_id.clone());
        let facts = self.0.runtime.facts(&of).map_err(|e| crate::error::to_wire(&e))?;
        let (exit_status, exited_at) = ending(facts.ended);
        let [stdin, stdout, stderr] = facts.ends.uris();
        Ok(v3::StateResponse {
            id: request.id,
            exec_id: request.exec_id,
            bundle: facts.bundle.display().to_string(),
            pid: facts.pid,
            status: process_status(facts.status).into(),
            stdin,
            stdout,
            stderr,
            terminal: facts.ends.terminal,
            exit_status,
            exited_at,
            ..Default::default()
        })
    }

    async fn wait(
        &self,
        _: &TtrpcContext,
        request: v3::WaitRequest,
    ) -> ttrpc::Result<v3::WaitResponse> {
        let target = target(request.id, request.exec_id);
        // Waiting changes nothing: it may end with its caller.
        let ended = self.0.runtime.wait(&target).await.map_err(|e| crate::error::to_wire(&e))?;
        // Only the event says why it ended: whoever learns here that it has may look for it at once.
        if ended.oom_kills > 0 {
            self.0.announced(&target).await;
        }
        let (exit_status, exited_at) = ending(Some(ended));
        Ok(v3::WaitResponse { exit_status, exited_at, ..Default::default() })
    }

    async fn kill(&self, _: &TtrpcContext, request: v3::KillRequest) -> ttrpc::Result<Empty> {
        let target = target(request.id, request.exec_id);
        let pod = Arc::clone(&self.0);
        finished(async move {
            pod.runtime.kill(&target, request.signal, request.all).await?;
            Ok(Empty::new())
        })
        .await
    }

    async fn pids(
        &self,
        _: &TtrpcContext,
        request: v3::PidsRequest,
    ) -> ttrpc::Result<v3::PidsResponse> {
        let pod = Arc::clone(&self.0);
        finished(async move {
            let mut members = pod.runtime.members(&request.id).await?;
            // containerd takes a task without processes for one that was never made, when it
            // starts, and drops it with its exit: the one that has ended stands for it.
            if members.is_empty() {
                let pid = pod.runtime.facts(&container(&request.id))?.pid;
                members.push(berth_process::Member { pid, exec: None });
            }
            let details = |exec_id| {
                let details = runc_options::ProcessDetails { exec_id, ..Default::default() };
                pack("containerd.runc.v1.ProcessDetails", &details)
            };
            let info = |member: berth_process::Member| task_types::ProcessInfo {
                pid: member.pid,
                info: member.exec.map(details).into(),
                ..Default::default()
            };
            let processes = members.into_iter().map(info).collect();
            Ok(v3::PidsResponse { processes, ..Default::default() })
        })
        .await
    }

    async fn pause(&self, _: &TtrpcContext, request: v3::PauseRequest) -> ttrpc::Result<Empty> {
        let pod = Arc::clone(&self.0);
        finished(async move {
            pod.runtime.pause(&request.id).await?;
            let event = wire::TaskPaused { container_id: request.id, ..Default::default() };
            pod.events.publish("/tasks/paused", "TaskPaused", &event);
            Ok(Empty::new())
        })
        .await
    }

    async fn resume(&self, _: &TtrpcContext, request: v3::ResumeRequest) -> ttrpc::Result<Empty> {
        let pod = Arc::clone(&self.0);
        finished(async move {
            pod.runtime.resume(&request.id).await?;
            let event = wire::TaskResumed { container_id: request.id, ..Default::default() };
            pod.events.publish("/tasks/resumed", "TaskResumed", &event);
            Ok(Empty::new())
        })
        .await
    }

    async fn checkpoint(
        &self,
        context: &TtrpcContext,
        request: v3::CheckpointTaskRequest,
    ) -> ttrpc::Result<Empty> {
        use protobuf::Message;
        let options = request.options.as_ref().map_or(&[][..], |options| &options.value);
        let options = runc_options::CheckpointOptions::parse_from_bytes(options)
            .map_err(|e| invalid(format!("checkpoint options: {e}")))?;
        let limit = u64::try_from(context.timeout_nano).ok().filter(|nanos| *nanos > 0);
        let limit = limit.map_or(LONGEST_CHECKPOINT, Duration::from_nanos);
        let wanted = messages::checkpoint(&request.path, options, limit)?;
        let pod = Arc::clone(&self.0);
        finished(async move {
            pod.runtime.checkpoint(&request.id, wanted).await?;
            let (container_id, checkpoint) = (request.id, request.path);
            let event = wire::TaskCheckpointed { container_id, checkpoint, ..Default::default() };
            pod.events.publish("/tasks/checkpointed", "TaskCheckpointed", &event);
            Ok(Empty::new())
        })
        .await
    }

    async fn update(
        &self,
        _: &TtrpcContext,
        request: v3::UpdateTaskRequest,
    ) -> ttrpc::Result<Empty> {
        let resources = request.resources.into_option().unwrap_or_default();
        if !resources.type_url.ends_with("runtime-spec/1/LinuxResources") {
            let kind = &resources.type_url;
            return Err(invalid(format!("resources of type {kind:?} are not LinuxResources")));
        }
        let pod = Arc::clone(&self.0);
        finished(async move {
            pod.runtime.update(&request.id, &resources.value).await?;
            Ok(Empty::new())
        })
        .await
    }

    async fn stats(
        &self,
        _: &TtrpcContext,
        request: v3::StatsRequest,
    ) -> ttrpc::Result<v3::StatsResponse> {
        let pod = Arc::clone(&self.0);
        finished(async move {
            let metrics = pod.runtime.metrics(Some(&request.id)).await?;
            let stats = MessageField::some(metrics.into_any());
            Ok(v3::StatsResponse { stats, ..Default::default() })
        })
        .await
    }

    async fn resize_pty(
        &self,
        _: &TtrpcContext,
        request: v3::ResizePtyRequest,
    ) -> ttrpc::Result<Empty> {
        let target = target(request.id, request.exec_id);
        let pod = Arc::clone(&self.0);
        finished(async move {
            pod.runtime.resize(&target, request.width, request.height).await?;
            Ok(Empty::new())
        })
        .await
    }

    async fn close_io(
        &self,
        _: &TtrpcContext,
        request: v3::CloseIORequest,
    ) -> ttrpc::Result<Empty> {
        let target = target(request.id, request.exec_id);
        let pod = Arc::clone(&self.0);
        finished(async move {
            if request.stdin {
                pod.runtime.close_stdin(&target).await?;
            }
            Ok(Empty::new())
        })
        .await
    }

    async fn connect(
        &self,
        _: &TtrpcContext,
        request: v3::ConnectRequest,
    ) -> ttrpc::Result<v3::ConnectResponse> {
        let facts = self.0.runtime.facts(&container(&request.id));
        Ok(v3::ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: facts.map_or(0, |facts| facts.pid),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        })
    }

    async fn shutdown(
        &self,
        _: &TtrpcContext,
        request: v3::ShutdownRequest,
    ) -> ttrpc::Result<Empty> {
        let tasks_left = !self.0.runtime.containers().is_empty();
        self.0.lifetime.shutdown(tasks_left, request.now);
        Ok(Empty::new())
    }
}

fn created(request: v3::CreateTaskRequest, pid: u32) -> wire::TaskCreate {
    let io = wire::TaskIO {
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
        terminal: request.terminal,
        ..Default::default()
    };
    wire::TaskCreate {
        container_id: request.id,
        bundle: request.bundle,
        rootfs: request.rootfs,
        io: MessageField::some(io),
        checkpoint: request.checkpoint,
        pid,
        ..Default::default()
    }
}

type Timestamp = MessageField<protobuf::well_known_types::timestamp::Timestamp>;

fn ending(ended: Option<Ended>) -> (u32, Timestamp) {
    ended.map_or((0, MessageField::none()), |ended| (ended.code, timestamp(ended.at)))
}
