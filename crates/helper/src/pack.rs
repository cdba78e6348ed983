//! A directory as one tar file, which is there whole or not at all.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use serde::Deserialize;

use crate::Done;
use crate::error::{Error, Result};

/// Readable by root alone: it may hold all that a process had in its memory.
const MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// In the directory that is packed: a symbolic link to what is not whole yet, where that has a name.
const NOTE: &str = ".partial";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    /// The directory whose entries are packed.
    from: PathBuf,
    /// The file, which must not be there.
    location: PathBuf,
}

/// Packs a directory. What is written has no name before it is whole, so that nothing is left of
/// it if this process is killed; where the file system cannot do that it has a hidden one.
pub(crate) fn pack(request: Request) -> Result<Done> {
    let Request { from, location } = request;
    let failed = |attempted: &str, e: std::io::Error| {
        Error::io(format!("{attempted} {}", location.display()), e)
    };
    let directory = location.parent().unwrap_or(Path::new("/"));
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, directory, flags, MODE) {
        Ok(file) => {
            let file = write(&from, file).map_err(|e| failed("write", e))?;
            let own = format!("/proc/self/fd/{}", file.as_raw_fd());
            let linked = rustix::fs::linkat(CWD, own, CWD, &location, AtFlags::SYMLINK_FOLLOW);
            linked.map_err(|e| failed("put in place", e.into()))?;
        }
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT) if directory.is_dir() => {
            by_name(&from, &location, directory).map_err(|e| failed("write", e))?;
        }
        Err(why) => return Err(failed("write", why.into())),
    }
    Ok(Done {})
}

/// Writes it under a hidden name first, which is noted: by that `discard` finds it if this process
/// is killed.
fn by_name(from: &Path, location: &Path, directory: &Path) -> std::io::Result<()> {
    let hidden = hidden(directory, from);
    let note = from.join(NOTE);
    gone(std::fs::remove_file(&note))?;
    std::os::unix::fs::symlink(&hidden, &note)?;
    let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, &hidden, flags | OFlags::NOFOLLOW, MODE)?;
    let done = write(from, file).and_then(|_| {
        let keep = RenameFlags::NOREPLACE;
        Ok(rustix::fs::renameat_with(CWD, &hidden, CWD, location, keep)?)
    });
    if done.is_err() {
        let _ = std::fs::remove_file(&hidden);
    }
    done
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Discard {
    /// The directory that was being packed.
    from: PathBuf,
}

/// Removes what a `pack` that was killed has left beside its location.
pub(crate) fn discard(request: Discard) -> Result<Done> {
    let Discard { from } = request;
    let failed = |path: &Path, e| Error::io(format!("discard {}", path.display()), e);
    let left = match std::fs::read_link(from.join(NOTE)) {
        Ok(left) => left,
        Err(why) => return gone(Err(why)).map(|()| Done {}).map_err(|e| failed(&from, e)),
    };
    // Nothing but what `pack` writes.
    if left.parent().is_none_or(|directory| hidden(directory, &from) != left) {
        let value = left.display().to_string();
        return Err(Error::Refused { what: "note", value, reason: "it is no name of ours" });
    }
    gone(std::fs::remove_file(&left)).map_err(|e| failed(&left, e))?;
    Ok(Done {})
}

/// What was not there is gone.
fn gone(removed: std::io::Result<()>) -> std::io::Result<()> {
    removed.or_else(|e| if e.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
}

/// The name of what is not whole yet, by the directory that is packed: two of them never write to one
/// file, and what is left of one that was killed is written over by its next.
fn hidden(directory: &Path, from: &Path) -> PathBuf {
    let of = from.file_name().unwrap_or_default().to_string_lossy();
    // A file's name ends at 255 bytes.
    let of: String = of.chars().take(32).collect();
    directory.join(format!(".{of}.partial"))
}

fn write(from: &Path, file: OwnedFd) -> std::io::Result<File> {
    let mut tar = tar::Builder::new(BufWriter::new(File::from(file)));
    tar.follow_symlinks(false);
    // What has holes is not unpacked again: a stranger's may be of any length.
    tar.sparse(false);
    let mut names: Vec<_> =
        std::fs::read_dir(from)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    names.retain(|path| !path.ends_with(NOTE));
    // What is small, and read first, stands first.
    names.sort_by_cached_key(|path| (path.is_dir(), path.clone()));
    for path in names {
        let name = path.strip_prefix(from).map_err(std::io::Error::other)?;
        if path.is_dir() {
            tar.append_dir_all(name, &path)?;
        } else {
            tar.append_path_with_name(&path, name)?;
        }
    }
    let mut buffer = tar.into_inner()?;
    buffer.flush()?;
    let file = buffer.into_inner()?;
    // A name must not lead to half of it after a power cut.
    file.sync_all()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_whole_is_hidden_under_a_name_of_its_own() {
        let id = "a".repeat(64);
        let of = |from: &str| hidden(Path::new("/out"), Path::new(from));
        assert_eq!(
            of(&format!("/data/{id}")),
            PathBuf::from(format!("/out/.{}.partial", &id[..32]))
        );
        assert_ne!(of("/data/one"), of("/data/two"));
    }

    #[test]
    fn what_is_written_under_a_name_is_whole_and_what_was_left_is_found_again() {
        let root = tempfile::tempdir().unwrap();
        let [from, out] = ["id", "out"].map(|name| root.path().join(name));
        for directory in [&from, &out] {
            std::fs::create_dir(directory).unwrap();
        }
        std::fs::write(from.join("status"), "x").unwrap();
        // What a killed one leaves.
        std::os::unix::fs::symlink(out.join(".id.partial"), from.join(NOTE)).unwrap();
        std::fs::write(out.join(".id.partial"), "half, and longer than all").unwrap();
        by_name(&from, &out.join("one.tar"), &out).unwrap();
        let mut archive = tar::Archive::new(File::open(out.join("one.tar")).unwrap());
        let entries = archive.entries().unwrap();
        let names: Vec<_> =
            entries.map(|entry| entry.unwrap().path().unwrap().into_owned()).collect();
        assert_eq!(names, [PathBuf::from("status")]);
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 1);
        by_name(&from, &out.join("one.tar"), &out).expect_err("it is there");
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 1);
        let discard = || discard(Discard { from: from.clone() });
        discard().unwrap_or_else(|_| panic!("nothing is left"));
        std::fs::write(out.join(".id.partial"), "half").unwrap();
        discard().unwrap_or_else(|_| panic!("something is left"));
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 1);
        std::fs::remove_file(from.join(NOTE)).unwrap();
        discard().unwrap_or_else(|_| panic!("nothing was noted"));
        std::os::unix::fs::symlink(out.join("one.tar"), from.join(NOTE)).unwrap();
        assert!(discard().is_err() && out.join("one.tar").exists());
    }
}
