//! What Berth is tested with: images, a registry, a node in namespaces of its own, a CRI
//! client, the leak census and the crash harness.
//!
//! Nothing here is part of the product, and nothing here knows its insides: it sees binaries,
//! a socket, log lines and the kernel.

pub mod bed;
pub mod census;
pub mod client;
pub mod config;
pub mod conformance;
pub mod containerd;
pub mod crash;
pub mod cri;
pub mod demo;
pub mod fuse;
pub mod gateway;
pub mod guest;
pub mod http;
pub mod image;
pub mod json;
pub mod keeper;
pub mod kinds;
pub mod kubelet;
pub mod network;
pub mod node;
pub mod nri;
pub mod parent;
pub mod paths;
pub mod patience;
pub mod place;
pub mod play;
pub mod plugin;
pub mod push;
pub mod raw;
pub mod registry;
pub mod runtime;
pub mod shim;
pub mod slot;
pub mod specs;
pub mod streams;
pub mod tracer;
