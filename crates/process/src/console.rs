//! The console socket: where a runtime hands over the terminal it has made.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A listening console socket; its file goes with it.
#[derive(Debug)]
pub(crate) struct Console {
    listener: UnixListener,
    path: PathBuf,
}

impl Console {
    /// Listens on a path that must be short: a unix socket's ends at 108 bytes.
    pub(crate) fn listen(path: PathBuf) -> Result<Self> {
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).map_err(|e| Error::file("listen on", &path, e))?;
        Ok(Self { listener, path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The terminal. A runtime has sent it by the time its command ends, so nothing waits here.
    pub(crate) fn terminal(self) -> Result<OwnedFd> {
        let take = || -> std::io::Result<_> {
            self.listener.set_nonblocking(true)?;
            let (socket, _) = self.listener.accept()?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let socket = take().map_err(|e| Error::file("accept on", &self.path, e))?;
        // The bytes are the name of the terminal inside the container.
        let (_, mut fds) = berth_sys::fdpass::receive(&socket, &mut [0; 256])?;
        fds.pop().ok_or_else(|| {
            Error::Invalid("the runtime sent no terminal over the console socket".to_owned())
        })
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
