//! Descriptors over unix sockets (unix(7), SCM_RIGHTS).

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::error::{Attempt, Error, Result};

/// The most descriptors one message carries (the kernel's own limit is 253).
pub const MOST: usize = 64;

/// Sends bytes with descriptors attached; returns how many bytes went.
///
/// At least one byte must go: a message without data carries no descriptors on a stream.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if bytes.is_empty()
        || fds.len() > MOST
        || (!fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)))
    {
        return Err(Error::Argument {
            what: "message",
            value: format!("{} bytes, {} descriptors", bytes.len(), fds.len()),
            reason: "needs 1 byte or more and at most 64 descriptors",
        });
    }
    rustix::io::retry_on_intr(|| {
        sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
    })
    .on_thing("send descriptors over", "a unix socket")
}

/// Receives bytes and the descriptors attached to them, close-on-exec. Zero bytes: end of file.
pub fn receive(socket: impl AsFd, bytes: &mut [u8]) -> Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let answer = rustix::io::retry_on_intr(|| {
        recvmsg(&socket, &mut [IoSliceMut::new(bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })
    .on_thing("receive descriptors from", "a unix socket")?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok((answer.bytes, fds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_descriptor_arrives_close_on_exec_and_names_the_same_file() {
        let (a, b) = UnixStream::pair().unwrap();
        let (read, write) = crate::pipe::pipe().unwrap();
        assert_eq!(send(&a, b"x", &[write.as_fd()]).unwrap(), 1);
        drop(write);
        let mut byte = [0; 8];
        let (count, mut fds) = receive(&b, &mut byte).unwrap();
        assert_eq!((count, fds.len()), (1, 1));
        let flags = rustix::io::fcntl_getfd(&fds[0]).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        let mut writer = std::fs::File::from(fds.remove(0));
        writer.write_all(b"through").unwrap();
        drop(writer);
        let mut text = String::new();
        std::fs::File::from(read).read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
    }

    #[test]
    fn an_empty_message_is_refused() {
        let (a, _b) = UnixStream::pair().unwrap();
        assert_eq!(send(&a, b"", &[]).unwrap_err().kind(), crate::Kind::Invalid);
    }
}
