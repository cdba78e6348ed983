//! SPDY/3.1, the server's side.

mod dictionary;
pub(crate) mod frame;
pub(crate) mod headers;
mod read;
mod session;
mod table;
mod write;

pub(crate) use session::{Session, Stream, session};
