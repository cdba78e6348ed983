//! What the author of a shim implements.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use berth_process::{
    Attachment, ContainerRequest, Ended, ExecRequest, Facts, Member, Reaper, Result, Target,
};

pub use berth_process::Checkpoint;

use crate::metrics::Metrics;

/// What the server process is told when it starts.
#[derive(Clone, Debug)]
pub struct Context {
    /// The pod.
    pub id: String,
    /// containerd's namespace.
    pub namespace: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// The shim's directory for state that is shared by all pods.
    pub state: PathBuf,
    /// The beginning of paths for sockets of this pod.
    pub sockets: PathBuf,
    /// Options given at `start`, for tasks that come with none.
    pub options: TaskOptions,
}

/// How the OCI runtime is to be driven, as a request or `start` says; empty is "you choose".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskOptions {
    /// Path or name of the runtime.
    pub binary: String,
    /// Its state directory.
    pub root: String,
    /// Whether systemd makes the cgroups.
    pub systemd_cgroup: bool,
}

/// A sandbox to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxRequest {
    /// Its id.
    pub id: String,
    /// Directory with its config.json.
    pub bundle: PathBuf,
    /// Its network namespace; empty: the node's.
    pub netns: PathBuf,
    /// The pod as CRI has it, if the daemon says.
    pub pod: Option<PodRequest>,
}

/// What CRI asks of a pod: for a shim that has to make its namespaces itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodRequest {
    /// Its host name; empty: the node's.
    pub hostname: String,
    /// The cgroup above those of its containers; may be empty.
    pub cgroup_parent: String,
    /// Sysctls of its namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// It shares the node's IPC namespace.
    pub node_ipc: bool,
    /// It has a user namespace of its own.
    pub user_namespace: bool,
}

/// What is known of the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SandboxFacts {
    /// Its own process; 0 if it needs none.
    pub pid: u32,
    /// Whether it has been started and has not ended.
    pub ready: bool,
    /// When it was created.
    pub created: SystemTime,
    /// When it ended.
    pub ended: Option<Ended>,
}

/// Makes a [`Runtime`] in the server process, once its event loop runs.
pub trait RuntimeFactory: Sized + 'static {
    /// The name of the runtime type, for `-info`.
    const NAME: &'static str;

    /// The runtime of one pod.
    fn make(context: Context, reaper: Arc<Reaper>) -> Result<Arc<dyn Runtime>>;

    /// Removes what a dead shim left of a container or sandbox; nothing left is fine.
    fn clean_up(
        id: &str,
        bundle: &Path,
        reaper: &Arc<Reaper>,
    ) -> impl Future<Output = Result<()>> + Send;
}

/// The containers of one pod, and the pod itself. Every call is finished even if its caller goes.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Makes a container up to the exec of its program; answers its pid. A container that is there,
    /// made by the same request, is `Exists`.
    async fn create(&self, request: ContainerRequest, options: TaskOptions) -> Result<u32>;
    /// Starts a container or exec; answers its pid.
    async fn start(&self, target: &Target) -> Result<u32>;
    /// Adds an exec, to be started.
    async fn exec(&self, container: &str, request: ExecRequest) -> Result<()>;
    /// Sends a signal to a process or to all of a container.
    async fn kill(&self, target: &Target, signal: u32, all: bool) -> Result<()>;
    /// Waits for the certain end of a container or exec.
    async fn wait(&self, target: &Target) -> Result<Ended>;
    /// Removes an ended container or exec: its last pid, and how it ended if it ever ran.
    async fn delete(&self, target: &Target) -> Result<(u32, Option<Ended>)>;
    /// What is known of a container or exec.
    fn facts(&self, target: &Target) -> Result<Facts>;
    /// The ids of all containers.
    fn containers(&self) -> Vec<String>;
    /// The processes of a container.
    async fn members(&self, container: &str) -> Result<Vec<Member>>;
    /// The figures of a container; `None` is the whole pod.
    async fn metrics(&self, container: Option<&str>) -> Result<Metrics>;
    /// Freezes a container.
    async fn pause(&self, container: &str) -> Result<()>;
    /// Thaws a container.
    async fn resume(&self, container: &str) -> Result<()>;
    /// Applies resources: JSON of the OCI spec's `linux.resources`.
    async fn update(&self, container: &str, resources: &[u8]) -> Result<()>;
    /// Writes a container's state to disk.
    async fn checkpoint(&self, container: &str, checkpoint: Checkpoint) -> Result<()>;
    /// Sets the size of a terminal.
    async fn resize(&self, target: &Target, columns: u32, rows: u32) -> Result<()>;
    /// Lets go of stdin.
    async fn close_stdin(&self, target: &Target) -> Result<()>;
    /// Opens a container's log anew.
    async fn reopen_log(&self, container: &str) -> Result<()>;
    /// Connects fifos to a container's streams.
    async fn attach(&self, container: &str, what: Attachment) -> Result<()>;
    /// Ends an attachment.
    async fn detach(&self, container: &str, attachment: &str) -> Result<()>;

    /// Takes note of the sandbox.
    async fn create_sandbox(&self, request: SandboxRequest) -> Result<()>;
    /// Makes it ready.
    async fn start_sandbox(&self) -> Result<SandboxFacts>;
    /// Ends it, with whatever still runs in it.
    async fn stop_sandbox(&self) -> Result<()>;
    /// Waits for its end.
    async fn wait_sandbox(&self) -> Result<Ended>;
    /// What is known of it.
    fn sandbox(&self) -> Result<SandboxFacts>;
}
