//! The `log` fifo of a bundle, through which shims by others write their own log.

use std::os::fd::OwnedFd;
use std::path::Path;

use berth_sys::pipe::{FifoEnd, make_fifo, open_fifo};

use crate::{Error, Result};

/// Makes the bundle's `log` fifo, unless it is there, and holds its read end open: a shim waits
/// for that when it opens its own end. Reads do not block; an unread fifo fills after 64 KiB, and
/// the shim would then wait: read it, or do not hold it.
///
/// # Errors
/// It cannot be made or opened, or something else has its name.
pub fn hold_log(bundle: &Path) -> Result<OwnedFd> {
    let path = bundle.join("log");
    let failed = |action| {
        let path = path.clone();
        move |e: berth_sys::Error| {
            let source = match e.errno() {
                Some(errno) => std::io::Error::from_raw_os_error(errno),
                None => std::io::Error::other(e),
            };
            Error::Bundle { action, path, source }
        }
    };
    match make_fifo(&path, 0o600) {
        Err(e) if e.kind() != berth_sys::Kind::Exists => return Err(failed("make the fifo")(e)),
        _ => {}
    }
    // Both ends: the fifo then never reports end of file between two writers.
    open_fifo(&path, FifoEnd::Both).map_err(failed("open the fifo"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    #[test]
    fn a_writer_finds_a_reader_and_is_heard_again_after_another() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = std::fs::File::from(hold_log(dir.path()).unwrap());
        let mut buffer = [0; 8];
        for word in ["one", "two"] {
            let mut writer =
                std::fs::OpenOptions::new().write(true).open(dir.path().join("log")).unwrap();
            writer.write_all(word.as_bytes()).unwrap();
            drop(writer);
            let read = log.read(&mut buffer).unwrap();
            assert_eq!(&buffer[..read], word.as_bytes());
        }
        assert_eq!(log.read(&mut buffer).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        hold_log(dir.path()).unwrap();
    }

    #[test]
    fn a_file_in_its_place_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("log"), "").unwrap();
        assert!(hold_log(dir.path()).is_err());
    }
}
