//! The Task service, both generations: the messages are the same, so those of v3 serve for both.

use std::path::PathBuf;
use std::time::Duration;

use berth_proto::{runc_options, task_v3 as wire};
use futures_util::TryFutureExt as _;
use protobuf::Message;
use protobuf::well_known_types::empty::Empty;

use crate::shim::{Method, lost_is_done};
use crate::types::time;
use crate::{Any, Error, Exited, Generation, Mount, Result, Shim, Status};

/// A task to create.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Create {
    /// The container, or the sandbox.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// What the shim mounts on the bundle's `rootfs`.
    pub rootfs: Vec<Mount>,
    /// A terminal.
    pub terminal: bool,
    /// Where stdin comes from; empty is nowhere.
    pub stdin: String,
    /// Where stdout goes; empty is nowhere.
    pub stdout: String,
    /// Where stderr goes; empty is nowhere.
    pub stderr: String,
    /// The shim's options.
    pub options: Option<Any>,
    /// A checkpoint to restore from.
    pub checkpoint: Option<PathBuf>,
}

/// How a checkpoint is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The directory that CRIU's images go to; it may be made.
    pub images: PathBuf,
    /// Where CRIU leaves its log and figures; it is there.
    pub work: PathBuf,
    /// How long it may take.
    pub limit: Duration,
}

/// A further process of a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exec {
    /// The container.
    pub id: String,
    /// The process.
    pub exec_id: String,
    /// A terminal.
    pub terminal: bool,
    /// As for [`Create`].
    pub stdin: String,
    /// As for [`Create`].
    pub stdout: String,
    /// As for [`Create`].
    pub stderr: String,
    /// The OCI process as JSON, under [`Any::PROCESS`].
    pub process: Any,
}

/// What a shim says of a task or exec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Its bundle.
    pub bundle: PathBuf,
    /// Its pid.
    pub pid: u32,
    /// Its status.
    pub status: Status,
    /// How it ended, if it has.
    pub exited: Option<Exited>,
}

impl Shim {
    /// Create: the process is there and waits to be started. Returns its pid.
    ///
    /// # Errors
    /// As each call: the shim refuses it, does not answer in time, or is lost.
    pub async fn create(&self, create: Create) -> Result<u32> {
        let request = wire::CreateTaskRequest {
            id: create.id.clone(),
            bundle: text(create.bundle),
            rootfs: create.rootfs.into_iter().map(Mount::into_wire).collect(),
            terminal: create.terminal,
            stdin: create.stdin,
            stdout: create.stdout,
            stderr: create.stderr,
            checkpoint: create.checkpoint.map(text).unwrap_or_default(),
            options: create.options.map(Any::into_wire).into(),
            ..Default::default()
        };
        let method = self.task("Create");
        let limit = Some(self.deadlines().create);
        let reply: wire::CreateTaskResponse =
            self.call(method, &create.id, limit, &request).await?;
        Ok(reply.pid)
    }

    /// Start: of the task, or of an exec. Returns its pid.
    ///
    /// # Errors
    /// As each call.
    pub async fn start(&self, id: &str, exec: Option<&str>) -> Result<u32> {
        let request =
            wire::StartRequest { id: id.into(), exec_id: exec_id(exec), ..Default::default() };
        let method = self.task("Start");
        let limit = Some(self.deadlines().create);
        let reply: wire::StartResponse = self.call(method, id, limit, &request).await?;
        Ok(reply.pid)
    }

    /// State: of the task, or of an exec.
    ///
    /// # Errors
    /// As each call.
    pub async fn state(&self, id: &str, exec: Option<&str>) -> Result<State> {
        let request =
            wire::StateRequest { id: id.into(), exec_id: exec_id(exec), ..Default::default() };
        let reply: wire::StateResponse = self.task_call("State", id, &request).await?;
        // A status that is not in the table is one that the shim cannot tell us.
        let status = reply.status.enum_value().map_or(Status::Unknown, Status::from);
        let at = time(reply.exited_at.as_ref());
        let exited =
            (status == Status::Stopped).then_some(Exited { status: reply.exit_status, at });
        Ok(State { bundle: reply.bundle.into(), pid: reply.pid, status, exited })
    }

    /// Wait: until the task, or an exec, has ended. May be dropped at any time.
    ///
    /// # Errors
    /// As each call, but without a deadline.
    pub fn wait<'a>(
        &'a self,
        id: &'a str,
        exec: Option<&str>,
    ) -> impl Future<Output = Result<Exited>> + use<'a> {
        // No async fn: its future would keep the request for as long as the container runs.
        let request =
            wire::WaitRequest { id: id.into(), exec_id: exec_id(exec), ..Default::default() };
        let wait = self.call(self.task("Wait"), id, None, &request);
        wait.map_ok(|reply: wire::WaitResponse| Exited {
            status: reply.exit_status,
            at: time(reply.exited_at.as_ref()),
        })
    }

    /// Kill: sends a signal to the task, to all its processes, or to an exec.
    ///
    /// # Errors
    /// As each call.
    pub async fn kill(&self, id: &str, exec: Option<&str>, signal: i32, all: bool) -> Result<()> {
        let request = wire::KillRequest {
            id: id.into(),
            exec_id: exec_id(exec),
            signal: signal.unsigned_abs(),
            all,
            ..Default::default()
        };
        self.task_call("Kill", id, &request).await.map(|_: Empty| ())
    }

    /// Delete: of a task, or an exec, that has ended.
    ///
    /// # Errors
    /// As each call.
    pub async fn delete(&self, id: &str, exec: Option<&str>) -> Result<Exited> {
        let request =
            wire::DeleteRequest { id: id.into(), exec_id: exec_id(exec), ..Default::default() };
        let reply: wire::DeleteResponse = self.task_call("Delete", id, &request).await?;
        Ok(Exited { status: reply.exit_status, at: time(reply.exited_at.as_ref()) })
    }

    /// Exec: adds a process, to be started by [`Shim::start`].
    ///
    /// # Errors
    /// As each call.
    pub async fn exec(&self, exec: Exec) -> Result<()> {
        let request = wire::ExecProcessRequest {
            id: exec.id.clone(),
            exec_id: exec.exec_id,
            terminal: exec.terminal,
            stdin: exec.stdin,
            stdout: exec.stdout,
            stderr: exec.stderr,
            spec: Some(exec.process.into_wire()).into(),
            ..Default::default()
        };
        self.task_call("Exec", &exec.id, &request).await.map(|_: Empty| ())
    }

    /// ResizePty.
    ///
    /// # Errors
    /// As each call.
    pub async fn resize_pty(
        &self,
        id: &str,
        exec: Option<&str>,
        (width, height): (u32, u32),
    ) -> Result<()> {
        let request = wire::ResizePtyRequest {
            id: id.into(),
            exec_id: exec_id(exec),
            width,
            height,
            ..Default::default()
        };
        self.task_call("ResizePty", id, &request).await.map(|_: Empty| ())
    }

    /// CloseIO: closes stdin.
    ///
    /// # Errors
    /// As each call.
    pub async fn close_stdin(&self, id: &str, exec: Option<&str>) -> Result<()> {
        let request = wire::CloseIORequest {
            id: id.into(),
            exec_id: exec_id(exec),
            stdin: true,
            ..Default::default()
        };
        self.task_call("CloseIO", id, &request).await.map(|_: Empty| ())
    }

    /// Update: the OCI resources as JSON, under [`Any::RESOURCES`].
    ///
    /// # Errors
    /// As each call.
    pub async fn update(&self, id: &str, resources: Any) -> Result<()> {
        let request = wire::UpdateTaskRequest {
            id: id.into(),
            resources: Some(resources.into_wire()).into(),
            ..Default::default()
        };
        self.task_call("Update", id, &request).await.map(|_: Empty| ())
    }

    /// Pids: of all processes of the task.
    ///
    /// # Errors
    /// As each call.
    pub async fn pids(&self, id: &str) -> Result<Vec<u32>> {
        let request = wire::PidsRequest { id: id.into(), ..Default::default() };
        let reply: wire::PidsResponse = self.task_call("Pids", id, &request).await?;
        Ok(reply.processes.into_iter().map(|process| process.pid).collect())
    }

    /// Pause.
    ///
    /// # Errors
    /// As each call.
    pub async fn pause(&self, id: &str) -> Result<()> {
        let request = wire::PauseRequest { id: id.into(), ..Default::default() };
        self.task_call("Pause", id, &request).await.map(|_: Empty| ())
    }

    /// Resume.
    ///
    /// # Errors
    /// As each call.
    pub async fn resume(&self, id: &str) -> Result<()> {
        let request = wire::ResumeRequest { id: id.into(), ..Default::default() };
        self.task_call("Resume", id, &request).await.map(|_: Empty| ())
    }

    /// Checkpoint; the task goes on. The shim is told the limit.
    ///
    /// # Errors
    /// As each call.
    pub async fn checkpoint(&self, id: &str, wanted: Checkpoint) -> Result<()> {
        let options = runc_options::CheckpointOptions {
            file_locks: true,
            work_path: text(wanted.work),
            ..Default::default()
        };
        let value = options.write_to_bytes().map_err(|e| Error::Request {
            call: "Checkpoint",
            id: id.to_owned(),
            why: format!("its options: {e}"),
        })?;
        let options = Any { type_url: "containerd.runc.v1.CheckpointOptions".into(), value };
        let request = wire::CheckpointTaskRequest {
            id: id.into(),
            path: text(wanted.images),
            options: Some(options.into_wire()).into(),
            ..Default::default()
        };
        let method = self.task("Checkpoint");
        self.call(method, id, Some(wanted.limit), &request).await.map(|_: Empty| ())
    }

    /// Stats: metrics of cgroup v1 or v2, as the type URL says.
    ///
    /// # Errors
    /// As each call.
    pub async fn stats(&self, id: &str) -> Result<Option<Any>> {
        let request = wire::StatsRequest { id: id.into(), ..Default::default() };
        let reply: wire::StatsResponse = self.task_call("Stats", id, &request).await?;
        Ok(reply.stats.into_option().map(Any::from))
    }

    /// Connect: the pid of the shim itself.
    pub(crate) async fn shim_pid(&self, id: &str) -> Result<u32> {
        let request = wire::ConnectRequest { id: id.into(), ..Default::default() };
        let reply: wire::ConnectResponse = self.task_call("Connect", id, &request).await?;
        Ok(reply.shim_pid)
    }

    /// Shutdown: asks the shim to end. One that ends so fast that its reply is lost has done so.
    ///
    /// # Errors
    /// As each call, but not when the connection is lost.
    pub async fn shutdown(&self, id: &str, now: bool) -> Result<()> {
        let request = wire::ShutdownRequest { id: id.into(), now, ..Default::default() };
        let done: Result<Empty> = self.task_call("Shutdown", id, &request).await;
        lost_is_done(done).map(drop)
    }

    fn task(&self, name: &'static str) -> Method {
        let service = match self.generation() {
            Generation::V2 => "containerd.task.v2.Task",
            Generation::V3 => "containerd.task.v3.Task",
        };
        Method { service, name }
    }

    async fn task_call<A: Message, B: Message>(
        &self,
        name: &'static str,
        id: &str,
        request: &A,
    ) -> Result<B> {
        self.call(self.task(name), id, Some(self.deadlines().call), request).await
    }
}

fn exec_id(exec: Option<&str>) -> String {
    exec.unwrap_or_default().to_owned()
}

/// Protobuf strings are UTF-8, and so are all paths that Berth makes.
pub(crate) fn text(path: PathBuf) -> String {
    path.into_os_string().into_string().unwrap_or_else(|raw| raw.to_string_lossy().into_owned())
}
