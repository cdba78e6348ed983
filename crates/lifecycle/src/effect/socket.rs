//! A shim's socket, when the shim is gone. It removes it as the last thing that it does; one that is
//! killed on its way out does not, and some never do.

use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use berth_pod::Kind;
use berth_shim_client::{Address, Launch};

use tokio::net::UnixStream;

use super::{Context, Result, failed};
use crate::layout::text;

/// Where containerd's own shims, and others like them, note their address.
const NOTE: &str = "address";

/// Removes the sockets that the shim was known by: where it was reached, what its `start` has
/// answered, perhaps without ever being reached, and what it has noted itself. An abstract one goes
/// with its process.
pub(super) async fn remove(context: &Context) -> Result<()> {
    let known = context.record.shim.held().and_then(|fact| Address::parse(&fact.address).ok());
    let bundle = context.layout().bundle(context.record.id.as_str());
    let answered = Launch::earlier_answer(&bundle).ok().flatten().map(|answer| answer.address);
    let noted = std::fs::read_to_string(bundle.join(NOTE)).ok();
    let noted = noted.and_then(|text| Address::parse(text.trim()).ok());
    for address in known.into_iter().chain(answered).chain(noted) {
        if let Address::Path(path) = address
            && is_dead(&path).await
            && let Err(e) = std::fs::remove_file(&path)
            && e.kind() != ErrorKind::NotFound
        {
            return failed(Kind::Broken, format!("cannot remove {}: {e}", text(&path)));
        }
    }
    Ok(())
}

/// A socket that nobody listens at. What a shim has answered may be anything: one whose queue is full
/// is not waited for.
async fn is_dead(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
        && UnixStream::connect(path).await.is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_socket_without_a_listener_is_dead() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "").unwrap();
        let alive = std::os::unix::net::UnixListener::bind(at("alive")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(at("dead")).unwrap());
        std::os::unix::fs::symlink(at("dead"), at("link")).unwrap();
        assert!(is_dead(&at("dead")).await);
        for name in ["file", "alive", "link", "absent"] {
            assert!(!is_dead(&at(name)).await, "{name}");
        }
        drop(alive);
    }
}
