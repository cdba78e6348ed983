//! Images: from a registry or a file to the root file system of a container.
//!
//! ```text
//!  reference ─▶ registry ─▶ manifest, config ─▶ layers, in parallel ─▶ l/<n> ─▶ images.db
//!                 file   ─┘                                              │
//!                                            prepare(key, image) ─▶ an overlay mount to make
//! ```
//!
//! This crate owns the store below its root directory and everything that it asks of registries. It
//! must not know what a pod or a container is: holders and snapshot keys are plain names. It mounts
//! nothing itself.
//!
//! Lists, status and facts are answered from memory. Whatever may block on our own disk runs on
//! blocking threads; no lock is held while the network is waited for.

mod apply;
mod archive;
mod confined;
mod database;
mod digest;
mod error;
mod facts;
mod hold;
mod import;
mod inode;
mod job;
mod layer;
mod manifest;
mod measure;
#[cfg(test)]
mod model;
mod platform;
mod pull;
mod reference;
mod registry;
mod settle;
mod shelf;
mod snapshot;
mod spare;
mod stack;
mod state;
mod store;
mod usage;
mod users;
mod verify;

pub use digest::Digest;
pub use error::{Error, Kind, Result};
pub use facts::{Facts, ImageUser};
pub use job::Transfer;
pub use measure::Usage;
pub use platform::Platform;
pub use reference::{Reference, Version};
pub use registry::{Credentials, Registries, check_hosts};
pub use snapshot::Mount;
pub use state::Image;
pub use store::{FsInfo, Imported, Options, Store};
pub use users::{Identity, User, Users};
