//! What Berth asks of the Linux kernel, made safe: processes, mounts, namespaces, descriptors.
//!
//! Everything here is synchronous and keeps no state of its own (but the descriptor of
//! [`signal::deaths`], which belongs to the process). It is the only crate that may hold
//! `unsafe`; each block argues its own preconditions. It must not know what a pod, a sandbox or an
//! image is.
//!
//! Every descriptor made here is close-on-exec, and none of these calls retries or waits on its
//! own: deadlines belong to the callers. The calls that name a path supplied by a pod or a volume
//! may block for ever on a dead network file system; such calls belong in a child process.
//!
//! Minimum kernel: 5.15.

mod error;

pub mod beneath;
pub mod disk;
pub mod fdpass;
pub mod fork;
pub mod heap;
pub mod mountinfo;
pub mod mounts;
pub mod namespace;
pub mod netdev;
pub mod pidfd;
pub mod pipe;
pub mod process;
pub mod signal;
pub mod small;
pub mod spawn;
pub mod stack;
pub mod sysctl;
pub mod thread;

pub use error::{Error, Kind, Result, kind_of};
pub use rustix::process::Pid;
pub use signal::Signal;
