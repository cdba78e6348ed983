//! What a daemon and a shim say to each other over ttrpc: a module `X` per file of messages, and
//! beside it `X_ttrpc` where the file has services.

#![allow(missing_docs, unreachable_pub, clippy::all)]

include!(concat!(env!("OUT_DIR"), "/shim/mod.rs"));
