//! The built shim over real ttrpc, with real runtimes. Needs root, crun, runc and busybox-static.

mod checkpoint;
mod events;
mod exec;
mod fixture;
mod life;
mod log;
mod memory;
mod pod;
mod resources;
