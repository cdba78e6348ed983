//! What Berth itself does to network devices: loopback is brought up, and a pod's device is given
//! back an address that its own network stack has taken from it.

use std::net::IpAddr;

use std::os::fd::AsRawFd;

use rustix::io::Errno;
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

/// Adds an address to a device of the current network namespace (rtnetlink(7)); one that it has
/// already is fine.
///
/// # Errors
/// NotFound without the device; else the kernel's answer.
pub fn add_address(device: &str, address: IpAddr, prefix: u8) -> Result<()> {
    let what = || format!("{address}/{prefix} on {device}");
    // No protocol is protocol 0, NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
        .on_thing("open", "a netlink socket")?;
    let index = rustix::net::netdevice::name_to_index(&socket, device)
        .on_thing("find the network device", device)?;
    rustix::io::write(&socket, &new_address(index, address, prefix))
        .on_thing("add the address", what())?;
    let mut answer = [0; 256];
    let length = rustix::io::read(&socket, &mut answer).on_thing("add the address", what())?;
    match acknowledged(&answer[..length]) {
        Some(0) => Ok(()),
        Some(code) if code == -Errno::EXIST.raw_os_error() => Ok(()),
        Some(code) => Err(Errno::from_raw_os_error(-code)).on_thing("add the address", what()),
        None => Err(Error::Malformed {
            file: "the answer of netlink".to_owned(),
            text: format!("{:?}", &answer[..length]),
            reason: "no acknowledgement",
        }),
    }
}

/// RTM_NEWADDR: a header, an ifaddrmsg, and the address twice.
fn new_address(index: u32, address: IpAddr, prefix: u8) -> Vec<u8> {
    // Flags of linux/netlink.h: REQUEST | ACK | EXCL | CREATE; RT_SCOPE_UNIVERSE is 0.
    const FLAGS: u16 = 0x1 | 0x4 | 0x200 | 0x400;
    let (family, bytes) = match address {
        IpAddr::V4(v4) => (libc::AF_INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6, v6.octets().to_vec()),
    };
    let mut body = vec![family as u8, prefix, 0, 0];
    body.extend(index.to_ne_bytes());
    for kind in [libc::IFA_LOCAL, libc::IFA_ADDRESS] {
        body.extend((bytes.len() as u16 + 4).to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(&bytes);
    }
    let mut message = (body.len() as u32 + 16).to_ne_bytes().to_vec();
    message.extend(libc::RTM_NEWADDR.to_ne_bytes());
    message.extend(FLAGS.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// The code of an NLMSG_ERROR: 0 or a negative errno, after the header of 16 bytes.
fn acknowledged(answer: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let code = i32::from_ne_bytes(answer.get(16..20)?.try_into().ok()?);
    (i32::from(kind) == libc::NLMSG_ERROR).then_some(code)
}
