//! What is asked for, and who answers it: the one interface to whatever runs containers.

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

/// Bytes that come from the client.
pub type BoxRead = Box<dyn AsyncRead + Send + Unpin>;
/// Bytes that go to the client. A write waits for a client that reads slowly.
pub type BoxWrite = Box<dyn AsyncWrite + Send + Unpin>;
/// One forwarded connection, seen from the pod's side.
pub type BoxDuplex = Box<dyn Duplex>;

/// Both directions of a connection. Shutting down the write side tells the client that no more comes.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Its width.
    pub columns: u16,
    /// Its height.
    pub rows: u16,
}

/// The streams of one exec or attach.
///
/// `stdin` ends (reads 0 bytes) when the client closes it and fails when the client is gone. `resize` gives
/// the newest size that was not taken yet, and `None` for good once no more can come.
pub struct Streams {
    /// Given if the request asks for it.
    pub stdin: Option<BoxRead>,
    /// Given if the request asks for it.
    pub stdout: Option<BoxWrite>,
    /// Given if the request asks for it; never with a tty, which has one output.
    pub stderr: Option<BoxWrite>,
    /// Sizes of the client's terminal; ends at once without a tty.
    pub resize: mpsc::Receiver<Size>,
}

/// A command to run in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// The container's id.
    pub container: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// Whether the client sends input.
    pub stdin: bool,
    /// Whether the client wants the output.
    pub stdout: bool,
    /// Whether the client wants the errors.
    pub stderr: bool,
}

/// A container's own streams to attach to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attach {
    /// The container's id.
    pub container: String,
    /// Whether the container has a terminal.
    pub tty: bool,
    /// Whether the client sends input.
    pub stdin: bool,
    /// Whether the client wants the output.
    pub stdout: bool,
    /// Whether the client wants the errors.
    pub stderr: bool,
}

/// Ports of a pod to forward connections to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortForward {
    /// The sandbox's id.
    pub pod: String,
    /// Ports that clients without a port of their own in each stream ask for (WebSocket channels).
    pub ports: Vec<u16>,
}

/// Why a session failed, for the client to read: what was attempted, on what, and why it did not work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

/// Runs what clients ask for. To drop a returned future is to cancel the session: that is all that
/// happens when a client goes away.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Runs a command until it ends and its output is written; gives its exit code.
    async fn exec(&self, request: Exec, streams: Streams) -> Result<i32, Failure>;

    /// Connects the streams to a container's until it ends or all of them have ended.
    async fn attach(&self, request: Attach, streams: Streams) -> Result<(), Failure>;

    /// Carries one connection to a port inside the pod until both directions have ended. A connection
    /// that the pod's side resets ends with `Ok`: a failure is told to the client, and some clients then
    /// give up all of their connections.
    async fn port_forward(
        &self,
        pod: &str,
        port: u16,
        connection: BoxDuplex,
    ) -> Result<(), Failure>;
}
