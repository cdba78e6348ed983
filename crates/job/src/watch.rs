//! Descriptors on the runtime's epoll.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the current runtime. It should be non-blocking, or be one that is
/// never read (a pidfd).
///
/// # Panics
/// Outside a runtime with I/O enabled.
pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // Deprecated (tokio 1.54) because a careless `AsRawFd` may change its number or be closed
    // under the registration. An `OwnedFd` that is moved in can do neither.
    #[allow(deprecated)]
    AsyncFd::with_interest(fd, interest)
}
