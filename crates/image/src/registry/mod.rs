//! Everything that is asked of registries: the distribution API v2, from the client's side.
//!
//! ```text
//!  hosts.toml ─▶ hosts, in order ─▶ request ─▶ 401? challenge ─▶ token ─▶ request
//!                     ▲                 │ 3xx: follow, without what is secret
//!                     └── next host ◀───┴ not found, refused, out of reach
//! ```
//!
//! It knows nothing of the store. Content is verified by whoever receives it, except for documents,
//! which are verified here.

mod blob;
mod challenge;
mod credentials;
mod hosts;
mod pace;
mod request;
mod session;
mod tls;
mod token;

use std::path::PathBuf;
use std::time::Duration;

pub use credentials::Credentials;
pub use hosts::check_hosts;

pub(crate) use blob::{Piece, Sources, feed};
pub(crate) use session::{Fetched, Session};

/// How registries are reached.
#[derive(Clone, Debug)]
pub struct Registries {
    /// Where `<host>/hosts.toml` is looked for, the first one first.
    pub certs_d: Vec<PathBuf>,
    /// Docker's config file with credentials, if one is used.
    pub docker_config: Option<PathBuf>,
    /// How long a connection may take to come up.
    pub connect_timeout: Duration,
    /// How long an answer may take, and the next 32 KiB of it. Waiting for our own disk does not count.
    pub progress_timeout: Duration,
    /// How often in a row something is tried without any progress.
    pub attempts: u32,
    /// The pause before the second try; it doubles each time.
    pub backoff: Duration,
}

impl Default for Registries {
    fn default() -> Self {
        Self {
            certs_d: vec!["/etc/berth/certs.d".into()],
            docker_config: None,
            connect_timeout: Duration::from_secs(10),
            progress_timeout: Duration::from_secs(30),
            attempts: 5,
            backoff: Duration::from_millis(500),
        }
    }
}

/// An error with its causes, in one line; they say more than the error itself.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
