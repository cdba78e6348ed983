//! Running OCI containers on one machine, without an RPC in sight: an OCI runtime driven by its
//! command line, the processes it makes, their streams, logs and ends.
//!
//! ```text
//!  Tasks ─▶ Container ─▶ Runtime (crun, runc: one command at a time, each with a deadline)
//!              │  ├────▶ Place   (its cgroup: kill, count, measure)
//!              │  └────▶ Stdio ─▶ Pump ─▶ LogFile
//!              └▶ Exec
//!  Reaper: every process ends up as a child of this one
//! ```
//!
//! [`plain`] has containers that need no OCI runtime.
//!
//! It owns the running processes and nothing else, must not know what an RPC, a daemon or a pod
//! spec is, and keeps no state outside the process but what cleaning up after it needs.

mod attach;
mod body;
mod bundle;
mod checkpoint;
mod command;
mod console;
mod container;
mod error;
mod exec;
mod flavour;
mod guest;
mod joined;
mod ledger;
mod place;
mod process;
mod pump;
mod reaper;
mod remains;
mod rootfs;
mod runtime;
mod stdio;
mod tasks;

pub mod netstack;
pub mod pause;
pub mod plain;
pub mod quiet;

pub use attach::Attachment;
pub use berth_cgroup::{Cgroups, DeviceIo, Pressure, Pressures, Stall, Version};
pub use berth_sys as sys;
pub use bundle::{Config, Linux, NamespaceEntry, Root, Traces};
pub use checkpoint::{Checkpoint, LONGEST as LONGEST_CHECKPOINT};
pub use container::ContainerRequest;
pub use error::{Error, Kind, Result};
pub use exec::ExecRequest;
pub use flavour::Flavour;
pub use place::{Figures, Place};
pub use process::Ended;
pub use pump::{Buffers, Listeners, Pump, SharedLog, copy, copy_patiently, to_listeners};
pub use reaper::{Reaper, UNKNOWN};
pub use remains::clean_up_pod;
pub use rootfs::MountRequest;
pub use runtime::{Roots, RuntimeOptions};
pub use stdio::{Ends, Input, Output};
pub use tasks::{Facts, Member, Status, Target, Tasks, clean_up};
