//! A connection on which streams can be asked for.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::node::Node;

/// A connection to a server, however it is protected.
pub trait Duplex: AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin> Duplex for T {}

/// A connection, and what is asked for on it.
#[derive(Debug)]
pub struct Call {
    /// The connection.
    pub socket: Box<dyn Duplex>,
    /// The name of the server.
    pub host: String,
    /// The path with its query.
    pub path: String,
}

impl Call {
    /// A connection for a URL of a node's daemon.
    ///
    /// # Errors
    /// If nobody listens there.
    pub fn dial(node: &Node, url: &str) -> Result<Self> {
        let rest = url.strip_prefix("http://").with_context(|| format!("an http URL: {url}"))?;
        let (host, path) = rest.split_once('/').with_context(|| format!("a path in {url}"))?;
        let socket = Box::new(connect(node, host.parse()?)?);
        Ok(Self { socket, host: host.to_owned(), path: format!("/{path}") })
    }
}

/// A connection within a node's network.
///
/// # Errors
/// If nobody listens there.
pub fn connect(node: &Node, address: SocketAddr) -> Result<TcpStream> {
    let socket = node.place()?.visit(|| {
        std::net::TcpStream::connect(address).with_context(|| format!("connect to {address}"))
    })?;
    socket.set_nonblocking(true)?;
    let socket = TcpStream::from_std(socket)?;
    socket.set_nodelay(true)?;
    Ok(socket)
}
