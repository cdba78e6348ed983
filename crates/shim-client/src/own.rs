//! What is particular to Berth's own shim: its options, and services for which Task has no calls.

use std::path::PathBuf;

use berth_proto::berth_shim as wire;
use protobuf::Message as _;
use protobuf::well_known_types::empty::Empty;

use crate::shim::Method;
use crate::task::text;
use crate::{Any, Error, Result, Shim};

/// What Berth's shim is told beside a task: `Create::options`, and the stdin of `start`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The OCI runtime; none: crun, then runc, on PATH.
    pub runtime_binary: Option<PathBuf>,
    /// The runtime's state directory; none: one below the shim's own.
    pub runtime_root: Option<PathBuf>,
    /// The runtime is to make cgroups through systemd.
    pub systemd_cgroup: bool,
    /// The container's cgroup below each hierarchy's root; none: as the bundle says.
    pub cgroup_path: Option<String>,
}

impl Options {
    /// The options as a message.
    ///
    /// # Errors
    /// They cannot be encoded (more than 2 GiB).
    pub fn into_any(self) -> Result<Any> {
        let message = wire::Options {
            runtime_binary: self.runtime_binary.map(text).unwrap_or_default(),
            runtime_root: self.runtime_root.map(text).unwrap_or_default(),
            systemd_cgroup: self.systemd_cgroup,
            cgroup_path: self.cgroup_path.unwrap_or_default(),
            ..Default::default()
        };
        let value = message.write_to_bytes().map_err(|e| Error::Request {
            call: "Create",
            id: String::new(),
            why: format!("its options: {e}"),
        })?;
        Ok(Any { type_url: "berth.shim.v1.Options".into(), value })
    }
}

/// Fifos to connect to a container's streams; somebody holds their other ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    /// Its name, by which it is ended.
    pub id: String,
    /// Where a byte says that its outputs were cut off, being too far behind.
    pub cut: PathBuf,
    /// What the container is sent.
    pub stdin: Option<PathBuf>,
    /// What it says on stdout; of a terminal, everything.
    pub stdout: Option<PathBuf>,
    /// What it says on stderr.
    pub stderr: Option<PathBuf>,
}

/// What Berth's shim knows of a container's end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExitFacts {
    /// Exit code; 128 + n for signal n.
    pub status: u32,
    /// The kernel killed something in its cgroup for want of memory.
    pub oom_killed: bool,
    /// How often.
    pub oom_count: u64,
    /// Log lines that could not be written.
    pub dropped_log_lines: u64,
}

impl Shim {
    /// ReopenLog: writes to a new log file from now on, after the old one was moved away.
    ///
    /// # Errors
    /// As each call; kind Unimplemented with shims by others.
    pub async fn reopen_log(&self, id: &str) -> Result<()> {
        let method = Method { service: "berth.shim.v1.Stdio", name: "ReopenLog" };
        let request = wire::ReopenLogRequest { id: id.into(), ..Default::default() };
        let limit = Some(self.deadlines().call);
        self.call(method, id, limit, &request).await.map(|_: Empty| ())
    }

    /// Attach: connects fifos to a container's streams, from now on.
    ///
    /// # Errors
    /// As each call; kind WrongState if the container has no stdin to attach to, Unimplemented with
    /// shims by others, and with those of a Berth that had no Attach.
    pub async fn attach(&self, id: &str, what: Attachment) -> Result<()> {
        let method = Method { service: "berth.shim.v1.Stdio", name: "Attach" };
        let request = wire::AttachRequest {
            id: id.into(),
            attachment: what.id,
            cut: text(what.cut),
            stdin: what.stdin.map(text).unwrap_or_default(),
            stdout: what.stdout.map(text).unwrap_or_default(),
            stderr: what.stderr.map(text).unwrap_or_default(),
            ..Default::default()
        };
        let limit = Some(self.deadlines().call);
        self.call(method, id, limit, &request).await.map(|_: Empty| ())
    }

    /// Detach: ends an attachment.
    ///
    /// # Errors
    /// As each call; kind NotFound if the container is not there any more.
    pub async fn detach(&self, id: &str, attachment: &str) -> Result<()> {
        let method = Method { service: "berth.shim.v1.Stdio", name: "Detach" };
        let request = wire::DetachRequest {
            id: id.into(),
            attachment: attachment.into(),
            ..Default::default()
        };
        let limit = Some(self.deadlines().call);
        self.call(method, id, limit, &request).await.map(|_: Empty| ())
    }

    /// Exit: how a container ended, beyond what Wait tells.
    ///
    /// # Errors
    /// As each call; kind WrongState while it runs, Unimplemented with shims by others.
    pub async fn exit_facts(&self, id: &str) -> Result<ExitFacts> {
        let method = Method { service: "berth.shim.v1.Facts", name: "Exit" };
        let request = wire::ExitRequest { id: id.into(), ..Default::default() };
        let limit = Some(self.deadlines().call);
        let reply: wire::ExitResponse = self.call(method, id, limit, &request).await?;
        Ok(ExitFacts {
            status: reply.exit_status,
            oom_killed: reply.oom_killed,
            oom_count: reply.oom_count,
            dropped_log_lines: reply.dropped_log_lines,
        })
    }
}
