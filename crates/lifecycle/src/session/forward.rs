//! A connection to a port inside a pod.
//!
//! A socket belongs to the network namespace of the thread that makes it, for good: a thread that has
//! entered the pod's makes one, and what follows happens here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_oci::facts::GuestNetwork;
use berth_pod::Kind;
use berth_sys::namespace::{self, Namespace};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;

use crate::effect::{Result, failed};
use crate::view::PodView;

/// A listener whose queue is full lets a connection wait.
const CONNECT: Duration = Duration::from_secs(10);

/// What is moved at a time, in each direction.
const CHUNK: usize = 16 << 10;

/// The thread makes a socket and ends.
const STACK: usize = 128 << 10;

/// Carries one connection until both of its directions have ended, or one side breaks it off.
pub(super) async fn run(
    pod: &PodView,
    guests: Option<GuestNetwork>,
    port: u16,
    mut client: impl AsyncRead + AsyncWrite + Unpin,
) -> Result<()> {
    let mut there = connect(pod, guests, port).await?;
    let moved = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut there, CHUNK, CHUNK);
    if let Err(why) = moved.await {
        tracing::debug!(pod = %pod.id(), port, error = %why, "a forwarded connection was broken off");
    }
    Ok(())
}

async fn connect(pod: &PodView, guests: Option<GuestNetwork>, port: u16) -> Result<TcpStream> {
    // In a kernel of its own, its loopback is nowhere on this node; its own addresses are.
    let elsewhere = guests == Some(GuestNetwork::Own) && pod.netns().is_some();
    let (netns, addresses) = match elsewhere {
        true => (None, pod.ips().to_vec()),
        false => {
            let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            (pod.netns(), loopback.to_vec())
        }
    };
    let mut refusals = Vec::new();
    let mut timed_out = false;
    for address in &addresses {
        let family = match address {
            IpAddr::V4(_) => AddressFamily::INET,
            IpAddr::V6(_) => AddressFamily::INET6,
        };
        let connected = async {
            let socket = socket(netns, family).await?;
            TcpSocket::from_std_stream(socket).connect(SocketAddr::new(*address, port)).await
        };
        match tokio::time::timeout(CONNECT, connected).await {
            Ok(Ok(stream)) => {
                // Small writes are somebody's keystrokes.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(why)) => refusals.push(format!("{address}: {why}")),
            Err(_) => {
                timed_out = true;
                refusals.push(format!("{address}: no answer within {CONNECT:?}"));
            }
        }
    }
    let kind = if timed_out { Kind::TimedOut } else { Kind::Unavailable };
    let on = match elsewhere {
        true => {
            "the pod runs on a kernel of its own: it is reached at its address, not at its localhost"
        }
        false => "does something listen there, in the pod?",
    };
    let (id, refusals) = (pod.id(), refusals.join("; "));
    failed(kind, format!("cannot connect to port {port} of pod {id} ({refusals}): {on}"))
}

/// A socket in this network namespace; none is the node's.
async fn socket(netns: Option<&Path>, family: AddressFamily) -> io::Result<std::net::TcpStream> {
    let make = move || {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Ok(socket_with(family, SocketType::STREAM, flags, None)?.into())
    };
    let Some(netns) = netns.map(PathBuf::from) else { return make() };
    let (tell, told) = oneshot::channel();
    let work = move || {
        let made = namespace::open(&netns)
            .and_then(|netns| namespace::enter(&netns, Namespace::Net))
            .map_err(io::Error::other)
            .and_then(|()| make());
        // Who asked may have left.
        let _ = tell.send(made);
    };
    std::thread::Builder::new().name("forward".into()).stack_size(STACK).spawn(work)?;
    told.await.unwrap_or_else(|_| Err(io::Error::other("the thread that makes sockets panicked")))
}
