//! `-info`: what a shim says of itself before anything runs.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use berth_job::Job;
use berth_proto::types::RuntimeInfo;
use berth_sys::spawn::Spawn;
use protobuf::Message as _;

use crate::decode::decode;
use crate::{Any, Error, Result};

/// What a shim says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Its runtime type: `io.containerd.runc.v2`.
    pub name: String,
    /// Its version; "" if it does not say.
    pub version: String,
    /// What its OCI runtime can do: the JSON that `runc features` prints, where it says that.
    pub features: Option<Any>,
    /// Annotations, such as `containerd.io/runtime-allow-mounts`.
    pub annotations: BTreeMap<String, String>,
}

/// Runs `BINARY -info` with these options on stdin, within `limit`. Shims built for containerd up to
/// 1.7, and many others, do not know it: they fail, or print something else.
///
/// # Errors
/// It fails, takes too long, or prints no `RuntimeInfo`.
pub async fn info(
    binary: &Path,
    options: Option<&Any>,
    env: &[(std::ffi::OsString, std::ffi::OsString)],
    limit: Duration,
) -> Result<Info> {
    const ACTION: &str = "-info";
    let stdin = match options {
        Some(options) => options.clone().into_wire().write_to_bytes(),
        None => Ok(Vec::new()),
    };
    let stdin = stdin.map_err(|e| Error::Request {
        call: ACTION,
        id: binary.display().to_string(),
        why: format!("its options: {e}"),
    })?;
    let spawn = Spawn::new(binary).arg(ACTION).envs(env.iter().map(|(key, value)| (key, value)));
    let outcome = Job::new(spawn, limit).stdin(stdin).run().await.map_err(|source| Error::Run {
        binary: binary.to_owned(),
        action: ACTION,
        source: Box::new(source),
    })?;
    if !outcome.exit.success() {
        return Err(Error::Failed {
            binary: binary.to_owned(),
            action: ACTION,
            how: outcome.exit,
            said: String::from_utf8_lossy(&outcome.stderr).trim().chars().take(500).collect(),
        });
    }
    let wrong = |problem: String| Error::Answer { problem: format!("to -info: {problem}") };
    let info = decode::<RuntimeInfo>(&outcome.stdout).map_err(|e| wrong(e.to_string()))?;
    if info.name.is_empty() {
        return Err(wrong("it has no name".to_owned()));
    }
    Ok(Info {
        name: info.name,
        version: info.version.into_option().map(|v| v.version).unwrap_or_default(),
        features: info.features.into_option().map(Any::from),
        annotations: info.annotations.into_iter().collect(),
    })
}
