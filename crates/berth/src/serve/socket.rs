//! The daemon's socket.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt as _};

/// What is appended to the socket's name while it is made ready.
pub(crate) const TEMPORARY: &str = ".new";

/// How long to wait before a connection that could not be accepted is tried again.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Binds the socket with mode 0660.
///
/// It is bound under another name, made ready, and renamed over whatever is there: nobody ever
/// meets it with a wrong mode, and a stale one is replaced without a gap. The lock says it is
/// stale.
pub(crate) fn bind(path: &Path, group: Option<&str>) -> anyhow::Result<UnixListener> {
    let mut temporary = OsString::from(path);
    temporary.push(TEMPORARY);
    let temporary = PathBuf::from(temporary);
    for place in [path, &temporary] {
        refuse_what_is_no_socket(place)?;
    }
    let bound = || -> io::Result<UnixListener> {
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&temporary)?;
        std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o660))?;
        if let Some(group) = group {
            std::os::unix::fs::chown(&temporary, None, Some(group_id(group)?))?;
        }
        std::fs::rename(&temporary, path)?;
        Ok(listener)
    };
    bound().with_context(|| format!("cannot serve on {}", path.display()))
}

/// Only a socket may be replaced: anything else there was put there by somebody for something else.
fn refuse_what_is_no_socket(path: &Path) -> anyhow::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => bail!(
            "cannot serve on {}: something that is no socket is there and stays as it is: move it \
             away, or set api.socket to another path",
            path.display()
        ),
        _ => Ok(()),
    }
}

/// The connections that come in, for as long as the daemon runs: one that cannot be accepted, for
/// want of descriptors or memory, is waited for.
pub(super) fn connections(
    listener: UnixListener,
) -> impl Stream<Item = io::Result<UnixStream>> + Send {
    let accepted = UnixListenerStream::new(listener).then(|accepted| async {
        if let Err(error) = &accepted {
            tracing::warn!(%error, "cannot accept a connection; trying again");
            tokio::time::sleep(ACCEPT_AGAIN).await;
        }
        accepted
    });
    accepted.filter(Result::is_ok)
}

/// A group by number, or by name from /etc/group.
pub(crate) fn group_id(group: &str) -> io::Result<u32> {
    if let Ok(id) = group.parse() {
        return Ok(id);
    }
    let groups = std::fs::read_to_string("/etc/group")?;
    let of = |line: &str| {
        let mut fields = line.split(':');
        (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok()).flatten()
    };
    groups.lines().find_map(of).ok_or_else(|| {
        let text = format!("api.group is {group:?}: /etc/group has no such group");
        io::Error::new(io::ErrorKind::NotFound, text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_the_mode_is_0660() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("berth.sock");
        drop(bind(&path, None).unwrap());
        let listener = bind(&path, None).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        let (connected, accepted) =
            tokio::join!(tokio::net::UnixStream::connect(&path), listener.accept());
        connected.unwrap();
        accepted.unwrap();
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn what_is_no_socket_is_never_replaced() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("berth.sock");
        for name in ["berth.sock", "berth.sock.new"] {
            let file = temp.path().join(name);
            std::fs::write(&file, "precious").unwrap();
            let refusal = bind(&path, None).unwrap_err().to_string();
            assert!(refusal.contains(name) && refusal.contains("api.socket"), "{refusal}");
            assert_eq!(std::fs::read(&file).unwrap(), b"precious");
            std::fs::remove_file(&file).unwrap();
        }
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        bind(&path, None).unwrap_err();
    }

    #[test]
    fn a_group_is_a_number_or_a_name() {
        assert_eq!(group_id("123").unwrap(), 123);
        assert_eq!(group_id("root").unwrap(), 0);
        assert!(group_id("no-such-group-here").is_err());
    }
}
