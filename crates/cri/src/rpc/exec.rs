//! Exec: where a client finds the streams of a new process.

use berth_proto::cri::v1 as cri;
use berth_streaming::Exec;

use super::required;
use crate::admit::Refusal;
use crate::{Cri, Error};

pub(crate) fn exec(cri: &Cri, request: cri::ExecRequest) -> Result<cri::ExecResponse, Error> {
    let id = required("container_id", &request.container_id)?;
    if request.cmd.is_empty() {
        return Err(Refusal::missing("cmd", "give the command to run").into());
    }
    let container = cri.parts.node.running_container(id)?.to_string();
    let url = cri.streaming()?.exec(Exec {
        container,
        command: request.cmd,
        tty: request.tty,
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
    })?;
    Ok(cri::ExecResponse { url })
}
