//! End-to-end tests: the built binaries on a node of their own, driven over gRPC.
//!
//! Each test looks at the effect (inside the container, on the node, in the kernel), never at
//! what the daemon meant to do; and each ends with the leak census.

mod anyshim;
mod badinput;
mod badworld;
mod census;
mod cgroup2;
mod checkpoints;
mod cli;
mod daemon;
mod devices;
mod events;
mod exec;
mod fields;
mod gateway;
mod handlers;
mod images;
mod joining;
mod kinds;
mod logs;
mod long;
mod metrics;
mod mounts;
mod namespaces;
mod network;
mod node;
mod nri;
mod pods;
mod resources;
mod restart;
mod restores;
mod security;
mod standin;
mod stop;
mod storms;
mod streaming;
mod streams;
mod tracer;
mod under;
mod volumes;
