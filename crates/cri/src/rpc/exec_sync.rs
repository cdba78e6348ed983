//! ExecSync: a probe's command, its output and its exit code.

use std::time::Duration;

use berth_proto::cri::v1 as cri;

use super::required;
use crate::admit::Refusal;
use crate::{Cri, Error};

pub(crate) async fn exec_sync(
    cri: &Cri,
    request: cri::ExecSyncRequest,
) -> Result<cri::ExecSyncResponse, Error> {
    let id = required("container_id", &request.container_id)?;
    if request.cmd.is_empty() {
        return Err(Refusal::missing("cmd", "give the command to run").into());
    }
    let timeout = match request.timeout {
        0 => None,
        seconds => Some(Duration::from_secs(
            u64::try_from(seconds)
                .map_err(|_| Error::Negative { field: "timeout", value: seconds })?,
        )),
    };
    let output = cri.parts.node.exec_sync(id, request.cmd, timeout).await?;
    Ok(cri::ExecSyncResponse {
        stdout: output.stdout,
        stderr: output.stderr,
        exit_code: output.exit_code,
    })
}
