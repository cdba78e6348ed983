//! What can go wrong with a log before the first line.

use std::io;
use std::path::PathBuf;

/// A log cannot be opened. Lines that cannot be written are no error: they are dropped and counted.
#[derive(Debug, thiserror::Error)]
#[error("open log {}: {source}: log_directory must be a directory, and log_path a file in it", path.display())]
pub struct Error {
    /// The file, or the directory above it.
    pub path: PathBuf,
    /// What the system answered.
    pub source: io::Error,
}
