//! The protocol side of CRI Exec, Attach and PortForward: URLs with one-time tokens, and the sessions of the
//! clients that follow them.
//!
//! Owns: tokens, the HTTP upgrade, SPDY/3.1 and WebSocket, and which stream carries what.
//! Must not know: pods, shims, gRPC. What a session does is a [`Backend`]'s.
//!
//! ```text
//!   Server::exec ──▶ token ──▶ URL ─ ─ ─ ▶ client
//!                                            │ HTTP/1.1 upgrade, token taken
//!                       SPDY/3.1 ◀───────────┴──────────▶ WebSocket
//!                          └────▶ stdin, stdout, … ◀────────┘
//!                                       │
//!                                    Backend
//! ```
//!
//! A session is one task. What it was made of (the connection, the streams, the backend's future) goes
//! when that ends, whoever ended it. Output waits for its client, and input for its reader: the memory of a
//! session has a bound, whatever the two sides do.

mod backend;
mod config;
mod ended;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod http;
mod inbox;
mod negotiate;
mod outbox;
mod port_forward;
mod pulse;
mod remote_command;
mod server;
mod spdy;
mod tls;
mod token;
mod websocket;

pub use backend::{
    Attach, Backend, BoxDuplex, BoxRead, BoxWrite, Duplex, Exec, Failure, PortForward, Size,
    Streams,
};
pub use config::{Config, Tls};
pub use error::{Error, Kind, Result};
pub use server::Server;
