//! Reading a file that somebody else supplies: it may lie on a mount that does not answer.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A fifo in its place must not be waited for.
pub(crate) const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    path: PathBuf,
    /// In bytes; a larger file is refused.
    limit: u64,
}

#[derive(Serialize)]
pub(crate) struct Answer {
    content: String,
}

pub(crate) fn read(request: Request) -> Result<Answer> {
    let Request { path, limit } = request;
    let failed = |source| Error::io(format!("read {}", path.display()), source);
    let refused =
        |reason| Error::Refused { what: "file", value: path.display().to_string(), reason };
    let file = File::options().read(true).custom_flags(NONBLOCK).open(&path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(refused("is not a file"));
    }
    let mut content = Vec::new();
    file.take(limit + 1).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > limit {
        return Err(refused("is larger than it may be"));
    }
    let content = String::from_utf8(content).map_err(|_| refused("is not text"))?;
    Ok(Answer { content })
}
