//! Reading and writing the kernel's files, with the path in every error.

use std::path::Path;
use std::str::FromStr;

use berth_sys::small;
use rustix::fs::CWD;

use crate::error::{Error, Result};

/// Writes a value in one write.
pub(crate) fn write(path: &Path, value: &str) -> Result<()> {
    small::write_at(CWD, path, value)
        .map_err(|source| Error::file(format!("write {value:?} to"), path, source))
}

/// Writes a value unless the file does not exist. True if it was written.
pub(crate) fn write_if_there(path: &Path, value: &str) -> Result<bool> {
    match write(path, value) {
        Ok(()) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Reads a file of one record and hands its text to `parse`.
pub(crate) fn read<T>(path: &Path, parse: impl FnOnce(&str) -> T) -> Result<T> {
    small::read_at(CWD, path, parse).map_err(|source| Error::file("read", path, source))
}

/// Reads a file that may not be there.
pub(crate) fn read_if_there<T>(path: &Path, parse: impl FnOnce(&str) -> T) -> Result<Option<T>> {
    match read(path, parse) {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads one number.
pub(crate) fn number<T: FromStr>(path: &Path) -> Result<T> {
    read(path, |text| text.trim().parse().map_err(|_| malformed(path, text)))?
}

/// Reads one number of a file that may not be there.
pub(crate) fn number_if_there<T: FromStr>(path: &Path) -> Result<Option<T>> {
    match number(path) {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads a limit: a number, or `None` for `max`, a negative number, and the largest number a v1
/// memory limit shows (2^63 rounded down to a page).
pub(crate) fn limit_if_there(path: &Path) -> Result<Option<u64>> {
    let read = read_if_there(path, |text| match text.trim() {
        "max" => Ok(None),
        text if text.starts_with('-') => Ok(None),
        text => match text.parse::<u64>() {
            Ok(value) => Ok(limits(value).then_some(value)),
            Err(_) => Err(malformed(path, text)),
        },
    })?;
    read.unwrap_or(Ok(None))
}

/// Does a limit of this many bytes limit anything?
pub(crate) fn limits(bytes: u64) -> bool {
    bytes < i64::MAX as u64 - (1 << 20)
}

/// The value of `key` in lines of `key value`.
pub(crate) fn field(text: &str, key: &str) -> Option<u64> {
    lines(text).find(|(name, _)| *name == key).map(|(_, value)| value)
}

/// All lines of `key value`.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, value.trim().parse().ok()?))
    })
}

pub(crate) fn malformed(path: &Path, text: &str) -> Error {
    Error::Malformed { path: path.to_owned(), text: text.trim().chars().take(80).collect() }
}
