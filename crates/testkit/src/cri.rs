//! A CRI client that reads well in tests: thin over the generated one, every call with a
//! deadline, every error the server's own status.

use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use berth_proto::cri::v1 as cri;
use berth_proto::node::v1::node_client::NodeClient;
use cri::image_service_client::ImageServiceClient;
use cri::runtime_service_client::RuntimeServiceClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::specs::{Container, Pod};
use crate::streams::Wants;

/// What a call answers.
pub type Answer<T> = Result<T, Status>;

/// Longer than any deadline inside the daemon: what takes more is stuck.
const DEADLINE: Duration = Duration::from_secs(90);
/// Two streams of ExecSync, each up to 16 MiB.
const MESSAGE: usize = 64 << 20;

/// A connection to a CRI socket.
#[derive(Clone, Debug)]
pub struct Cri {
    /// The runtime service, for calls that have no shorter way below.
    pub runtime: RuntimeServiceClient<Channel>,
    /// The image service.
    pub image: ImageServiceClient<Channel>,
    /// Berth's own service.
    pub node: NodeClient<Channel>,
    pub(crate) channel: Channel,
}

/// A pod that runs: its id, and the config that creates containers in it.
#[derive(Clone, Debug)]
pub struct RunningPod {
    /// The sandbox's id.
    pub id: String,
    /// The config that it was run with.
    pub config: cri::PodSandboxConfig,
}

/// What a command run by ExecSync gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Standard output as text.
    pub stdout: String,
    /// Standard error as text.
    pub stderr: String,
    /// The exit code.
    pub code: i32,
}

impl Cri {
    /// Connects to a socket.
    ///
    /// # Errors
    /// If nothing listens there.
    pub async fn connect(socket: &Path) -> Result<Self> {
        let path = socket.to_owned();
        let dial = tower::service_fn(move |_| dial(path.clone()));
        let channel = Endpoint::from_static("http://berth")
            .connect_with_connector(dial)
            .await
            .with_context(|| format!("connect to {}", socket.display()))?;
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE),
            image: ImageServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE),
            node: NodeClient::new(channel.clone()).max_decoding_message_size(MESSAGE),
            channel,
        })
    }

    /// Whether a daemon behind this socket answers Version. May be called from anywhere.
    #[must_use]
    pub fn answers(socket: &Path) -> bool {
        if BlockingStream::connect(socket).is_err() {
            return false;
        }
        let ask = || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
            runtime.block_on(async {
                let cri = Self::connect(socket).await.ok()?;
                cri.version().await.ok()
            })
        };
        // A thread of its own: the caller's may already run a runtime.
        std::thread::scope(|scope| scope.spawn(ask).join()).is_ok_and(|answer| answer.is_some())
    }

    /// Version.
    ///
    /// # Errors
    /// The server's status, as for every call below.
    pub async fn version(&self) -> Answer<cri::VersionResponse> {
        let request = cri::VersionRequest { version: "v1".to_owned() };
        self.runtime.clone().version(in_time(request)).await.map(tonic::Response::into_inner)
    }

    /// Status with its verbose information.
    ///
    /// # Errors
    /// The server's status.
    pub async fn status(&self) -> Answer<cri::StatusResponse> {
        let request = cri::StatusRequest { verbose: true };
        self.runtime.clone().status(in_time(request)).await.map(tonic::Response::into_inner)
    }

    /// Writes a container's checkpoint; a `timeout` of 0 seconds is the daemon's own.
    ///
    /// # Errors
    /// The server's status.
    pub async fn checkpoint(&self, id: &str, location: &Path, timeout: i64) -> Answer<()> {
        let request = cri::CheckpointContainerRequest {
            container_id: id.to_owned(),
            location: location.display().to_string(),
            timeout,
        };
        self.runtime.clone().checkpoint_container(in_time(request)).await.map(drop)
    }

    /// Runs a pod.
    ///
    /// # Errors
    /// The server's status.
    pub async fn run(&self, pod: &Pod) -> Answer<RunningPod> {
        let config = pod.config();
        let request = cri::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: pod.handler(),
        };
        let answer = self.runtime.clone().run_pod_sandbox(in_time(request)).await?;
        Ok(RunningPod { id: answer.into_inner().pod_sandbox_id, config })
    }

    /// Stops a pod.
    ///
    /// # Errors
    /// The server's status.
    pub async fn stop_pod(&self, id: &str) -> Answer<()> {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.runtime.clone().stop_pod_sandbox(in_time(request)).await.map(drop)
    }

    /// Removes a pod.
    ///
    /// # Errors
    /// The server's status.
    pub async fn remove_pod(&self, id: &str) -> Answer<()> {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.runtime.clone().remove_pod_sandbox(in_time(request)).await.map(drop)
    }

    /// A pod's status.
    ///
    /// # Errors
    /// The server's status.
    pub async fn pod_status(&self, id: &str) -> Answer<cri::PodSandboxStatus> {
        let answer = self.pod_details(id).await?;
        answer.status.ok_or_else(|| Status::internal("PodSandboxStatus without a status"))
    }

    /// A pod's status with its containers and verbose information.
    ///
    /// # Errors
    /// The server's status.
    pub async fn pod_details(&self, id: &str) -> Answer<cri::PodSandboxStatusResponse> {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
        let answer = self.runtime.clone().pod_sandbox_status(in_time(request)).await?;
        Ok(answer.into_inner())
    }

    /// The pods that are listed.
    ///
    /// # Errors
    /// The server's status.
    pub async fn pods(&self) -> Answer<Vec<cri::PodSandbox>> {
        let request = cri::ListPodSandboxRequest { filter: None };
        let answer = self.runtime.clone().list_pod_sandbox(in_time(request)).await?;
        Ok(answer.into_inner().items)
    }

    /// Creates a container in a pod.
    ///
    /// # Errors
    /// The server's status.
    pub async fn create(&self, pod: &RunningPod, container: &Container) -> Answer<String> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(container.config()),
            sandbox_config: Some(pod.config.clone()),
        };
        let answer = self.runtime.clone().create_container(in_time(request)).await?;
        Ok(answer.into_inner().container_id)
    }

    /// Starts a container.
    ///
    /// # Errors
    /// The server's status.
    pub async fn start(&self, id: &str) -> Answer<()> {
        let request = cri::StartContainerRequest { container_id: id.to_owned() };
        self.runtime.clone().start_container(in_time(request)).await.map(drop)
    }

    /// Creates and starts a container.
    ///
    /// # Errors
    /// The server's status.
    pub async fn launch(&self, pod: &RunningPod, container: &Container) -> Answer<String> {
        let id = self.create(pod, container).await?;
        self.start(&id).await?;
        Ok(id)
    }

    /// Stops a container within this grace in seconds.
    ///
    /// # Errors
    /// The server's status.
    pub async fn stop(&self, id: &str, grace: i64) -> Answer<()> {
        let request = cri::StopContainerRequest { container_id: id.to_owned(), timeout: grace };
        self.runtime.clone().stop_container(in_time(request)).await.map(drop)
    }

    /// Removes a container.
    ///
    /// # Errors
    /// The server's status.
    pub async fn remove(&self, id: &str) -> Answer<()> {
        let request = cri::RemoveContainerRequest { container_id: id.to_owned() };
        self.runtime.clone().remove_container(in_time(request)).await.map(drop)
    }

    /// A container's status.
    ///
    /// # Errors
    /// The server's status.
    pub async fn container(&self, id: &str) -> Answer<cri::ContainerStatus> {
        let answer = self.container_details(id).await?;
        answer.status.ok_or_else(|| Status::internal("ContainerStatus without a status"))
    }

    /// A container's status with its verbose information.
    ///
    /// # Errors
    /// The server's status.
    pub async fn container_details(&self, id: &str) -> Answer<cri::ContainerStatusResponse> {
        let request = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
        let answer = self.runtime.clone().container_status(in_time(request)).await?;
        Ok(answer.into_inner())
    }

    /// The containers that are listed.
    ///
    /// # Errors
    /// The server's status.
    pub async fn containers(&self) -> Answer<Vec<cri::Container>> {
        let request = cri::ListContainersRequest { filter: None };
        let answer = self.runtime.clone().list_containers(in_time(request)).await?;
        Ok(answer.into_inner().containers)
    }

    /// Waits until a container has exited, and returns its status.
    ///
    /// # Errors
    /// The server's status, or DeadlineExceeded if it still runs after half a minute.
    pub async fn exited(&self, id: &str) -> Answer<cri::ContainerStatus> {
        let wait = async {
            loop {
                let status = self.container(id).await?;
                if status.state() == cri::ContainerState::ContainerExited {
                    return Ok(status);
                }
                // CRI has no call that waits for an exit; the kubelet lists once a second.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let late = || Status::deadline_exceeded(format!("container {id} still runs"));
        tokio::time::timeout(crate::patience::here(Duration::from_secs(30)), wait)
            .await
            .map_err(|_| late())?
    }

    /// Runs a command in a container, with no time limit of its own.
    ///
    /// # Errors
    /// The server's status.
    pub async fn exec(&self, id: &str, command: &[&str]) -> Answer<Output> {
        let answer = self.exec_within(id, command, 0).await?;
        Ok(Output {
            stdout: String::from_utf8_lossy(&answer.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&answer.stderr).into_owned(),
            code: answer.exit_code,
        })
    }

    /// Runs a shell line in a container and returns what it wrote, without the last newline;
    /// a line that fails is an error.
    ///
    /// # Errors
    /// The server's status, or Unknown with the output of a failed line.
    pub async fn shell(&self, id: &str, line: &str) -> Answer<String> {
        let output = self.exec(id, &["sh", "-c", line]).await?;
        if output.code != 0 {
            return Err(Status::unknown(format!("`{line}` in {id}: {output:?}")));
        }
        Ok(output.stdout.trim_end_matches('\n').to_owned())
    }

    /// Runs a command in a container for at most this many seconds; 0 is for ever.
    ///
    /// # Errors
    /// The server's status.
    pub async fn exec_within(
        &self,
        id: &str,
        command: &[&str],
        seconds: i64,
    ) -> Answer<cri::ExecSyncResponse> {
        let request = cri::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            timeout: seconds,
        };
        self.runtime.clone().exec_sync(in_time(request)).await.map(tonic::Response::into_inner)
    }

    /// Where a command's streams are to be found.
    ///
    /// # Errors
    /// The server's status.
    pub async fn exec_url(&self, id: &str, command: &[&str], wants: Wants) -> Answer<String> {
        let request = cri::ExecRequest {
            container_id: id.to_owned(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            tty: wants.tty,
            stdin: wants.stdin,
            stdout: true,
            stderr: wants.stderr,
        };
        Ok(self.runtime.clone().exec(in_time(request)).await?.into_inner().url)
    }

    /// Where a container's own streams are to be found.
    ///
    /// # Errors
    /// The server's status.
    pub async fn attach_url(&self, id: &str, wants: Wants) -> Answer<String> {
        let request = cri::AttachRequest {
            container_id: id.to_owned(),
            stdin: wants.stdin,
            tty: wants.tty,
            stdout: true,
            stderr: wants.stderr,
        };
        Ok(self.runtime.clone().attach(in_time(request)).await?.into_inner().url)
    }

    /// Where a pod's ports are to be found.
    ///
    /// # Errors
    /// The server's status.
    pub async fn forward_url(&self, pod: &str, ports: &[i32]) -> Answer<String> {
        let request =
            cri::PortForwardRequest { pod_sandbox_id: pod.to_owned(), port: ports.to_vec() };
        Ok(self.runtime.clone().port_forward(in_time(request)).await?.into_inner().url)
    }

    /// Stops and removes a pod with everything in it.
    ///
    /// # Errors
    /// The server's status.
    pub async fn clear(&self, pod: &str) -> Answer<()> {
        self.stop_pod(pod).await?;
        self.remove_pod(pod).await
    }

    /// Stops and removes everything that is listed.
    ///
    /// # Errors
    /// The server's status.
    pub async fn clear_all(&self) -> Answer<()> {
        for pod in self.pods().await? {
            self.clear(&pod.id).await?;
        }
        Ok(())
    }
}

/// The image service.
impl Cri {
    /// Pulls an image and returns the reference that containers name it by.
    ///
    /// # Errors
    /// The server's status.
    pub async fn pull(&self, reference: &str) -> Answer<String> {
        self.pull_as(reference, None).await
    }

    /// Pulls an image with these credentials.
    ///
    /// # Errors
    /// The server's status.
    pub async fn pull_as(&self, reference: &str, auth: Option<cri::AuthConfig>) -> Answer<String> {
        let request =
            cri::PullImageRequest { image: Some(image(reference)), auth, ..Default::default() };
        let answer = self.image.clone().pull_image(in_time(request)).await?;
        Ok(answer.into_inner().image_ref)
    }

    /// An image's status; `None` if it is not there.
    ///
    /// # Errors
    /// The server's status.
    pub async fn image_status(&self, reference: &str) -> Answer<Option<cri::Image>> {
        let request = cri::ImageStatusRequest { image: Some(image(reference)), verbose: true };
        let answer = self.image.clone().image_status(in_time(request)).await?;
        Ok(answer.into_inner().image)
    }

    /// The images that are listed.
    ///
    /// # Errors
    /// The server's status.
    pub async fn images(&self) -> Answer<Vec<cri::Image>> {
        let request = cri::ListImagesRequest { filter: None };
        let answer = self.image.clone().list_images(in_time(request)).await?;
        Ok(answer.into_inner().images)
    }

    /// Removes an image.
    ///
    /// # Errors
    /// The server's status.
    pub async fn remove_image(&self, reference: &str) -> Answer<()> {
        let request = cri::RemoveImageRequest { image: Some(image(reference)) };
        self.image.clone().remove_image(in_time(request)).await.map(drop)
    }
}

/// An image spec of this reference.
#[must_use]
pub fn image(reference: &str) -> cri::ImageSpec {
    cri::ImageSpec { image: reference.to_owned(), ..Default::default() }
}

/// A request with the deadline that every call of a test has.
pub fn in_time<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(crate::patience::here(DEADLINE));
    request
}

/// The code of a call that had to fail.
///
/// # Panics
/// If it did not.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(answer: Answer<T>) -> Code {
    match answer {
        Err(status) => status.code(),
        Ok(value) => panic!("this call should have failed: {value:?}"),
    }
}

async fn dial(path: PathBuf) -> std::io::Result<TokioIo<UnixStream>> {
    UnixStream::connect(path).await.map(TokioIo::new)
}
