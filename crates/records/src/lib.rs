//! The durable records of pods: one SQLite row per pod, and one per leftover.
//!
//! A saved record survives the death of the daemon at any instruction (a commit reaches the page
//! cache) and is consistent after a power cut; nothing here waits for the disk on the way to a
//! running pod. One thread writes, and commits together what came in while it was writing.
//!
//! ```text
//!   pods ──▶ queue ──▶ writer: BEGIN, every waiting save, COMMIT (WAL, synchronous=NORMAL)
//!                         └─ the log has grown, and no creation is in flight ──▶ checkpoint thread
//! ```

mod error;
mod mirror;
mod spare;
mod store;
mod writer;

pub use error::Error;
pub use store::{Creating, LeftoverId, Loaded, Records, Save};
