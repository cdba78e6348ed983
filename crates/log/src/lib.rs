//! The CRI log of a container: its lines and its file; and who follows its output as it comes.
//!
//! Owns the format, and what happens to lines that cannot be written. Must not know where bytes
//! come from: Berth's own shim reads them from pipes, the daemon from the fifos of other shims.

mod error;
mod file;
mod follow;
mod frame;
mod stamp;

pub use error::Error;
pub use file::LogFile;
pub use follow::Followers;
pub use frame::{Framer, LINE, Stream};
pub use stamp::stamp;

/// What this crate's functions return.
pub type Result<T> = std::result::Result<T, Error>;
