//! The CRI log of a container, written by the shim itself: no daemon stands between a container
//! and its log.

mod file;
mod frame;
mod stamp;

pub use file::LogFile;
pub use frame::{Framer, LINE, Stream};
