//! What systemd is told (sd_notify(3)): one datagram for each state.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;

/// The service manager that started us, if one did.
pub(crate) struct Notify(Option<PathBuf>);

impl Notify {
    /// Takes the address from the environment's `NOTIFY_SOCKET`.
    pub(crate) fn from_environment() -> Self {
        Self(std::env::var_os("NOTIFY_SOCKET").map(PathBuf::from))
    }

    /// CRI answers.
    pub(crate) fn ready(&self) {
        self.say(&format!("READY=1\nSTATUS=serving CRI\nMAINPID={}", std::process::id()));
    }

    /// We are going down on purpose.
    pub(crate) fn stopping(&self) {
        self.say("STOPPING=1");
    }

    /// The configuration has been read again.
    pub(crate) fn status(&self, text: &str) {
        self.say(&format!("STATUS={text}"));
    }

    /// A manager that does not listen is no reason to fail.
    fn say(&self, text: &str) {
        let Some(path) = &self.0 else { return };
        if let Err(error) = send(path, text) {
            tracing::warn!(%error, socket = %path.display(), "cannot notify the service manager");
        }
    }
}

fn send(path: &std::path::Path, text: &str) -> io::Result<()> {
    let bytes = path.as_os_str().as_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(text.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_hears_that_we_are_ready_and_that_we_stop() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notify = Notify(Some(path));
        let mut buffer = [0; 128];
        notify.ready();
        let length = manager.recv(&mut buffer).unwrap();
        assert!(std::str::from_utf8(&buffer[..length]).unwrap().starts_with("READY=1\n"));
        notify.stopping();
        let length = manager.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"STOPPING=1");
    }
}
