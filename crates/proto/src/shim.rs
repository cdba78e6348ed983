//! What a daemon and a shim say to each other over ttrpc: a module `X` per file of messages, and
//! beside it `X_ttrpc` where the file has services.

#![allow(missing_docs, unreachable_pub, clippy::all)]
#![allow(clippy::too_many_lines, clippy::semicolon_if_nothing_returned)]

include!(concat!(env!("OUT_DIR"), "/shim/mod.rs"));
