//! The server with clients of its tests' own: both transports, from the URL to the end of the session.

#[path = "../../src/spdy/dictionary.rs"]
mod dictionary;

mod backend;
mod channels;
mod forward;
mod hostile;
mod remote;
mod spdy;
mod upgrade;
mod urls;
mod websocket;
