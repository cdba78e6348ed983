//! The built shim over real ttrpc, with real runtimes. Needs root, crun, runc and busybox-static.

mod fixture;
mod life;
