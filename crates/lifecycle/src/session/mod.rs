//! Sessions: a client's streams to and from a command, a container's first process, or a port of a
//! pod. They are uses: outside the pod's queue, and nobody but the client waits for the client.
//!
//! ```text
//!   client ─▶ stdin ─▶ fifo ─▶ process ─▶ fifos ─▶ stdout, stderr ─▶ client
//! ```
//!
//! Must not know what carries the streams between here and the client.

mod attach;
mod copy;
mod exec;
mod forward;

use std::sync::Arc;

use berth_pod::spec::Stdin;
use berth_pod::{ContainerId, Kind};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use crate::{Error, Node, PodView};

/// What a client sends; its end is the end of the input.
pub type BoxRead = Box<dyn AsyncRead + Send + Unpin>;

/// What a client is sent, at its own pace; it is shut down when there is no more.
pub type BoxWrite = Box<dyn AsyncWrite + Send + Unpin>;

/// The size of a client's terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// How wide it is.
    pub columns: u16,
    /// How high it is.
    pub rows: u16,
}

/// The streams of a client. What is absent is empty, or dropped.
pub struct Streams {
    /// Standard input.
    pub stdin: Option<BoxRead>,
    /// Standard output; of a terminal, everything.
    pub stdout: Option<BoxWrite>,
    /// Standard error; a terminal has none.
    pub stderr: Option<BoxWrite>,
    /// The sizes that the client's terminal takes.
    pub resize: mpsc::Receiver<Size>,
}

impl Node {
    /// The container that a session is to be in, by its id or a unique prefix.
    ///
    /// # Errors
    /// NotFound, or WrongState if it does not run.
    pub fn running_container(&self, id: &str) -> Result<ContainerId, Error> {
        self.running(id).map(|(_, id)| id)
    }

    /// The container that a client is to be attached to, with a terminal or without one, and with its
    /// input or without.
    ///
    /// # Errors
    /// NotFound; WrongState if it does not run or has no such input; Invalid if it has no terminal.
    pub fn attachable_container(
        &self,
        id: &str,
        tty: bool,
        stdin: bool,
    ) -> Result<ContainerId, Error> {
        let (context, id) = self.running(id)?;
        let spec = &context.container(&id)?.spec.spec;
        if stdin && spec.stdin == Stdin::Closed {
            return Err(attach::no_stdin(&id).into());
        }
        if tty && !spec.tty {
            let text = format!("container {id} has no tty: attach without one");
            return Err(Error::new(Kind::Invalid, text));
        }
        Ok(id)
    }

    /// Runs a command in a container, with a client's streams; its exit code, 128 + n for signal n.
    /// Nothing is lost of what it says, and it waits for a client that reads slowly.
    ///
    /// Who drops this kills the command, and what it has started.
    ///
    /// # Errors
    /// NotFound, WrongState, Cancelled if the client does not take its output any more, or what the
    /// shim says.
    pub async fn exec(
        &self,
        id: &str,
        command: &[String],
        tty: bool,
        streams: Streams,
    ) -> Result<i32, Error> {
        let (context, id) = self.running(id)?;
        Ok(exec::run(&context, &id, (command, tty), streams).await?)
    }

    /// Connects a client's streams to those of a container's first process. What that says from now on
    /// is sent to the client, and is in the log all the same; the session ends after its last output,
    /// or at the end of the client's input if it wants no output.
    ///
    /// # Errors
    /// NotFound; WrongState if it does not run or has no such input; Exhausted if the client does not
    /// keep up: it is cut off, because the container does not wait for it.
    pub async fn attach(&self, id: &str, streams: Streams) -> Result<(), Error> {
        let (context, id) = self.running(id)?;
        Ok(attach::run(&context, &id, streams).await?)
    }

    /// The ready pod that a port is to be forwarded to, by its id or a unique prefix.
    ///
    /// # Errors
    /// NotFound, or WrongState if it is not ready.
    pub fn ready_sandbox(&self, id: &str) -> Result<Arc<PodView>, Error> {
        let view = self.sandbox(id)?;
        match berth_pod::verdict::not_ready(&view.record) {
            None => Ok(view),
            Some(why) => Err(why.into()),
        }
    }

    /// Carries one connection to a port that is open inside a pod, on its loopback: of IPv4, or else of
    /// IPv6. It ends when both directions have, when either side breaks it off, or when the pod is not
    /// ready any more: its network lasts as long as a connection in it.
    ///
    /// # Errors
    /// NotFound, WrongState if the pod is not ready, Unavailable if nobody listens at the port.
    pub async fn port_forward(
        &self,
        pod: &str,
        port: u16,
        client: impl AsyncRead + AsyncWrite + Unpin,
    ) -> Result<(), Error> {
        let view = self.ready_sandbox(pod)?;
        let guests = self.handler_of(&view).and_then(|handler| handler.facts.guest_network);
        tokio::select! {
            done = forward::run(&view, guests, port, client) => Ok(done?),
            () = self.not_ready(view.id().as_str()) => Ok(()),
        }
    }

    /// Waits until a pod is not ready.
    async fn not_ready(&self, pod: &str) {
        loop {
            let changed = self.shared.registry.changed();
            if self.ready_sandbox(pod).is_err() {
                return;
            }
            changed.await;
        }
    }
}
