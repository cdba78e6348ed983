//! The pipes of a job.

use std::io;
use std::os::fd::OwnedFd;

use berth_sys::pipe::set_nonblocking;
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::{Error, Result};

/// The last of stderr that goes into a message.
const TAIL: usize = 2048;

/// The read end of an output and what came through it so far.
pub(crate) struct Captured {
    pipe: Option<AsyncFd<OwnedFd>>,
    bytes: Vec<u8>,
    limit: usize,
    cut: bool,
}

impl Captured {
    pub(crate) fn new(pipe: Option<OwnedFd>, limit: usize) -> Result<Self> {
        let pipe = pipe.map(|fd| register(fd, Interest::READABLE)).transpose()?;
        Ok(Self { pipe, bytes: Vec::new(), limit, cut: false })
    }

    /// Reads until end of file. May be dropped and called again: nothing is lost.
    pub(crate) async fn read(&mut self) {
        while let Some(pipe) = &self.pipe {
            let Ok(mut ready) = pipe.readable().await else { break };
            let mut chunk = [0; 8192];
            let got = ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut chunk)?));
            match got {
                Err(_) => {}
                Ok(Ok(count)) if count > 0 => self.keep(&chunk[..count]),
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) => break,
            }
        }
        self.pipe = None;
    }

    /// Takes what is in the pipe now, without waiting. At most a pipe's capacity, so that a writer
    /// that is still there cannot keep us.
    pub(crate) fn read_ready(&mut self) {
        let Some(pipe) = self.pipe.take() else { return };
        let mut chunk = [0; 8192];
        for _ in 0..128 {
            match rustix::io::read(pipe.get_ref(), &mut chunk) {
                Ok(count) if count > 0 => self.keep(&chunk[..count]),
                Err(Errno::INTR) => {}
                _ => return,
            }
        }
    }

    fn keep(&mut self, chunk: &[u8]) {
        let room = self.limit.saturating_sub(self.bytes.len()).min(chunk.len());
        self.bytes.extend_from_slice(&chunk[..room]);
        self.cut |= room < chunk.len();
    }

    pub(crate) fn cut(&self) -> bool {
        self.cut
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The end of what was kept, for a message.
    pub(crate) fn tail(&mut self) -> String {
        self.read_ready();
        let from = self.bytes.len().saturating_sub(TAIL);
        String::from_utf8_lossy(&self.bytes[from..]).trim().to_owned()
    }
}

/// Writes all bytes and closes the pipe. A reader that went away has had enough.
pub(crate) async fn feed(pipe: Option<OwnedFd>, bytes: Vec<u8>) {
    let Some(Ok(pipe)) = pipe.map(|fd| register(fd, Interest::WRITABLE)) else { return };
    let mut left = &bytes[..];
    while !left.is_empty() {
        let Ok(mut ready) = pipe.writable().await else { return };
        match ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), left)?)) {
            Err(_) => {}
            Ok(Ok(count)) => left = &left[count.min(left.len())..],
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(_)) => return,
        }
    }
}

fn register(fd: OwnedFd, interest: Interest) -> Result<AsyncFd<OwnedFd>> {
    set_nonblocking(&fd, true)?;
    crate::watch(fd, interest).map_err(|source| Error::Watch { source })
}
