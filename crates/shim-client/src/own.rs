//! The services of Berth's own shim, for which Task has no calls.

use berth_proto::berth_shim as wire;
use protobuf::well_known_types::empty::Empty;

use crate::shim::Method;
use crate::{Result, Shim};

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
