//! The one network device that Berth itself touches: loopback.

use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::error::{Attempt, Error, Result};

/// Brings `lo` of the current network namespace up (netdevice(7)); doing it twice is fine.
pub fn loopback_up() -> Result<()> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .on_thing("open", "a socket for lo")?;
    let failed = || Error::on("bring up", "lo", std::io::Error::last_os_error());
    // SAFETY: ifreq is plain data; the name is NUL-terminated within its 16 bytes; both ioctls
    // read and write one ifreq; the flags are the member of the union that SIOCGIFFLAGS filled.
    #[allow(unsafe_code)]
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = *from as libc::c_char;
        }
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) < 0 {
            return Err(failed());
        }
        request.ifr_ifru.ifru_flags |= (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) < 0 {
            return Err(failed());
        }
    }
    Ok(())
}
