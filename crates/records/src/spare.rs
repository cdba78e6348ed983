//! A little room kept on the disk, so that a database opens where nothing else can be written.
//!
//! SQLite makes its index of the log anew when the first connection opens, and the log itself if
//! that is gone: both take room. A daemon that could not open its records on a full disk could not
//! let go of the pods that fill it.

use std::path::Path;

use crate::store::beside;

/// The name of the file, after the database's.
const NAME: &str = "-spare";
/// Enough for the index of a log and for the first commits.
const ROOM: usize = 128 << 10;

/// Opens the database. On a full disk the spare file is given up for it.
pub(crate) fn with_room<T>(
    path: &Path,
    open: impl Fn(&Path) -> Result<T, rusqlite::Error>,
) -> Result<T, rusqlite::Error> {
    match open(path) {
        Err(why) if wants_room(&why) && std::fs::remove_file(beside(path, NAME)).is_ok() => {
            open(path)
        }
        outcome => outcome,
    }
}

/// What SQLite says when a file cannot be made or made longer.
fn wants_room(why: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{CannotOpen, DiskFull, SystemIoFailure};
    matches!(why.sqlite_error_code(), Some(CannotOpen | DiskFull | SystemIoFailure))
}

/// Keeps room for the next time, if there is any now.
pub(crate) fn keep(path: &Path) {
    let spare = beside(path, NAME);
    // Written whole: a file of the same length with holes would hold no room.
    if std::fs::metadata(&spare).is_ok_and(|m| m.len() == ROOM as u64) {
        return;
    }
    if std::fs::write(&spare, vec![0; ROOM]).is_err() {
        let _ = std::fs::remove_file(&spare);
    }
}
