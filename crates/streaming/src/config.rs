//! How the server listens, and how long it waits.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Settings of a [`crate::Server`].
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// Serves TLS if given.
    pub tls: Option<Tls>,
    /// How long an unused URL is good.
    pub token_lifetime: Duration,
    /// How long a session may go without a byte or a ping from its client and without output.
    pub idle: Duration,
    /// How often a client is asked for a sign of life. The kernel then notices one that is gone, also while
    /// nothing is read from it.
    pub ping: Duration,
    /// How long a client may take to open the streams of what it asked for.
    pub creation: Duration,
}

/// Files in PEM form.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The certificate, followed by those that vouch for it.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            tls: None,
            token_lifetime: Duration::from_secs(60),
            idle: Duration::from_secs(4 * 60 * 60),
            ping: Duration::from_secs(30),
            creation: Duration::from_secs(30),
        }
    }
}
