//! The socket at which plugins register.

use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use tokio::net::{UnixListener, UnixStream};

use crate::Error;

/// Listens there, in place of whoever has died. What a plugin says, all containers are changed by: the
/// socket is root's alone.
///
/// # Errors
/// Somebody else listens there, or the socket cannot be made.
pub(crate) async fn listen(path: &Path) -> Result<UnixListener, Error> {
    let failed = |source| Error::Listen { path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(failed)?;
    }
    // One that hangs, and has its backlog full, is not waited for.
    match UnixStream::connect(path).await {
        Ok(_) => return Err(failed(io::Error::other("another runtime listens there"))),
        Err(why) if why.kind() == ErrorKind::WouldBlock => {
            return Err(failed(io::Error::other("another runtime listens there, and hangs")));
        }
        Err(why) if why.kind() == ErrorKind::NotFound => {}
        Err(why) if why.kind() == ErrorKind::ConnectionRefused => {
            // Nobody listens, or it is no socket at all: that stays as it is.
            let kind = std::fs::symlink_metadata(path).map_err(failed)?.file_type();
            if !std::os::unix::fs::FileTypeExt::is_socket(&kind) {
                return Err(failed(io::Error::other("something that is no socket is there")));
            }
            std::fs::remove_file(path).map_err(failed)?;
        }
        Err(why) => return Err(failed(why)),
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_runtimes_socket_is_taken_over_and_a_living_ones_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nri/nri.sock");
        let first = listen(&path).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let why = listen(&path).await.unwrap_err().to_string();
        assert!(why.contains("another runtime listens there"), "{why}");
        drop(first);
        drop(listen(&path).await.unwrap());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "mine").unwrap();
        let why = listen(&path).await.unwrap_err().to_string();
        assert!(why.contains("no socket"), "{why}");
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }

    #[tokio::test]
    async fn a_runtime_that_hangs_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nri.sock");
        let _hangs = std::os::unix::net::UnixListener::bind(&path).unwrap();
        // It accepts nobody: after so many, a connect would wait.
        let mut waiting = Vec::new();
        while let Ok(socket) = UnixStream::connect(&path).await {
            waiting.push(socket);
        }
        let why = listen(&path).await.unwrap_err().to_string();
        assert!(why.contains("and hangs"), "{why}");
    }
}
