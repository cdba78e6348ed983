//! The socket at which plugins register.

use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use tokio::net::UnixListener;

use crate::Error;

/// Listens there, in place of whoever has died. What a plugin says, all containers are changed by: the
/// socket is root's alone.
///
/// # Errors
/// Somebody else listens there, or the socket cannot be made.
pub(crate) fn listen(path: &Path) -> Result<UnixListener, Error> {
    let failed = |source| Error::Listen { path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(failed)?;
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => return Err(failed(io::Error::other("another runtime listens there"))),
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
        let first = listen(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let why = listen(&path).unwrap_err().to_string();
        assert!(why.contains("another runtime listens there"), "{why}");
        drop(first);
        drop(listen(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "mine").unwrap();
        let why = listen(&path).unwrap_err().to_string();
        assert!(why.contains("no socket"), "{why}");
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }
}
