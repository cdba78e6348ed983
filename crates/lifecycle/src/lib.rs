//! One task per pod: it owns the pod's record, turns wishes into jobs, and publishes what is true.
//!
//! The loop itself is pure and lives in `berth-pod`; this crate drives it with real effects.

mod error;
pub mod view;

use std::sync::Arc;
use std::time::Duration;

use berth_pod::spec::{Admitted, ContainerSpec, Resources, SandboxSpec};
use berth_pod::{ContainerId, SandboxId};

pub use error::Error;
pub use view::{ContainerState, ContainerView, NodeReport, PodView};

/// The pods of this node. Cheap to clone.
#[derive(Clone)]
pub struct Node {}

/// What a command run in a container gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Standard output, at most 16 MiB.
    pub stdout: Vec<u8>,
    /// Standard error, at most 16 MiB.
    pub stderr: Vec<u8>,
    /// Exit code; 128 + n when a signal ended it.
    pub exit_code: i32,
}

#[allow(unused_variables, clippy::unused_async)]
impl Node {
    /// Runs a sandbox, joins one under way, or answers the id of the equal one that is ready.
    ///
    /// # Errors
    /// Exists, WrongState, or whatever stopped a step.
    pub async fn run_sandbox(&self, spec: Admitted<SandboxSpec>) -> Result<SandboxId, Error> {
        unreachable!()
    }
    /// Stops a sandbox and its containers; an unknown id is success. `id` may be a unique prefix.
    pub async fn stop_sandbox(&self, id: &str) -> Result<(), Error> {
        unreachable!()
    }
    /// Removes a sandbox and its containers; an unknown id is success.
    pub async fn remove_sandbox(&self, id: &str) -> Result<(), Error> {
        unreachable!()
    }
    /// Every listed pod.
    pub fn sandboxes(&self) -> Vec<Arc<PodView>> {
        unreachable!()
    }
    /// One listed pod by id or unique prefix; NotFound, or Invalid when the prefix is ambiguous.
    pub fn sandbox(&self, id: &str) -> Result<Arc<PodView>, Error> {
        unreachable!()
    }
    /// Creates a container in a ready sandbox.
    pub async fn create_container(
        &self,
        sandbox: &str,
        spec: Admitted<ContainerSpec>,
    ) -> Result<ContainerId, Error> {
        unreachable!()
    }
    /// Starts a created container; running already is success.
    pub async fn start_container(&self, id: &str) -> Result<(), Error> {
        unreachable!()
    }
    /// Stops a container within a grace; an unknown id is success.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error> {
        unreachable!()
    }
    /// Removes a container, killing it if it runs; an unknown id is success.
    pub async fn remove_container(&self, id: &str) -> Result<(), Error> {
        unreachable!()
    }
    /// Every listed container of every pod.
    pub fn containers(&self) -> Vec<Arc<ContainerView>> {
        unreachable!()
    }
    /// One listed container by id or unique prefix.
    pub fn container(&self, id: &str) -> Result<Arc<ContainerView>, Error> {
        unreachable!()
    }
    /// Changes a container's limits, before or after its start.
    pub async fn update_resources(&self, id: &str, resources: Resources) -> Result<(), Error> {
        unreachable!()
    }
    /// Reopens a container's log after its rotation.
    pub async fn reopen_log(&self, id: &str) -> Result<(), Error> {
        unreachable!()
    }
    /// Runs a command in a container; none waits without end.
    ///
    /// # Errors
    /// TimedOut when the command outlived `timeout`; it has been killed then.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, Error> {
        unreachable!()
    }
    /// The OCI spec that a container was created with, as JSON; for verbose status.
    pub async fn runtime_spec(&self, id: &str) -> Result<Vec<u8>, Error> {
        unreachable!()
    }
    /// The whole node for the operator.
    pub fn report(&self) -> NodeReport {
        unreachable!()
    }
}
