//! Writable layers: one directory per container, and the overlay mount that puts it on its image.
//!
//! Nothing here syncs, and nothing here mounts: the shim does.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, Timespec, Timestamps};

use crate::apply::apply_and_hide;
use crate::confined;
use crate::database::LayerRow;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::hold::check_name;
use crate::settle::settle;
use crate::shelf::{Paths, Shelf};

/// How long a removal waits for the deletion of what it moved away.
const PATIENCE: Duration = Duration::from_millis(50);

/// A mount that somebody else makes: the root file system of a container.
///
/// The option string can be longer than the page that mount(2) takes, for images of more than some
/// hundred layers: every lower directory is `<store>/l/<number>`, so whoever mounts can name them
/// relative to that directory, or pass them one by one (`lowerdir+`, Linux 6.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The file system type: `overlay`.
    pub kind: String,
    /// The source: `overlay`, which means nothing to the kernel.
    pub source: String,
    /// The options, each for itself.
    pub options: Vec<String>,
}

/// Reads which snapshots there are, and which layers they stand on.
pub(crate) fn read(paths: &Paths) -> Result<HashMap<String, Vec<u64>>> {
    let directory = paths.snapshots();
    let fault = |e| Error::file("read", &directory, e);
    let mut snapshots = HashMap::new();
    for entry in std::fs::read_dir(&directory).map_err(fault)? {
        let entry = entry.map_err(fault)?;
        if let Ok(key) = entry.file_name().into_string() {
            let lower = read_lower(&entry.path())?.map(|(_, lower)| lower);
            snapshots.insert(key, lower.unwrap_or_default());
        }
    }
    Ok(snapshots)
}

/// The image and the layers, from the bottom up, that a snapshot was made for; none if it was not
/// finished.
fn read_lower(snapshot: &Path) -> Result<Option<(Digest, Vec<u64>)>> {
    let path = snapshot.join("lower");
    let text = match std::fs::read_to_string(&path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(None),
        text => text.map_err(|e| Error::file("read", &path, e))?,
    };
    let mut words = text.split_ascii_whitespace();
    let image = words.next().and_then(|word| word.parse().ok());
    let numbers: std::result::Result<Vec<u64>, _> = words.map(str::parse).collect();
    Ok(image.zip(numbers.ok()))
}

impl Shelf {
    /// Makes the writable layer of a container, or finds it, and says how to mount it.
    pub(crate) fn prepare(&self, key: &str, id: &Digest) -> Result<Mount> {
        check_name("snapshot", key)?;
        let layers = {
            let mut state = self.state();
            let layers = state.layers_of(id)?;
            // From here on no sweep takes them.
            let numbers = layers.iter().map(|row| row.number);
            state.snapshots.entry(key.to_owned()).or_default().extend(numbers);
            layers
        };
        let lower = self.make_snapshot(key, id, &layers)?;
        self.state().snapshots.insert(key.to_owned(), lower.clone());
        Ok(self.mount(key, &lower))
    }

    fn make_snapshot(&self, key: &str, id: &Digest, layers: &[LayerRow]) -> Result<Vec<u64>> {
        let snapshot = self.paths.snapshot(key);
        let make = |path: &Path| match std::fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(Error::file("create", path, error))
            }
            _ => Ok(()),
        };
        make(&snapshot)?;
        if let Some((image, lower)) = read_lower(&snapshot)?
            && image == *id
        {
            forget_volatile(&snapshot)?;
            return Ok(lower);
        }
        let (upper, work) = (snapshot.join("upper"), snapshot.join("work"));
        make(&upper)?;
        make(&work)?;
        self.shape_root(&upper, layers)?;
        let lower: Vec<u64> = layers.iter().map(|row| row.number).collect();
        let mut text = format!("{id}\n");
        for number in &lower {
            text.push_str(&format!("{number}\n"));
        }
        // Last, and by rename: a snapshot with this file is whole.
        let (new, last) = (snapshot.join("lower.new"), snapshot.join("lower"));
        std::fs::write(&new, text).map_err(|e| Error::file("write", &new, e))?;
        std::fs::rename(&new, &last).map_err(|e| Error::file("rename", &new, e))?;
        Ok(lower)
    }

    /// The root of an overlay is like its uppermost part, so that gets the owner, mode and times of
    /// the uppermost layer that says anything about its root.
    fn shape_root(&self, upper: &Path, layers: &[LayerRow]) -> Result<()> {
        let fault = |e| Error::file("set the owner and mode of", upper, e);
        let Some(row) = layers.iter().rev().find(|row| row.root) else {
            let mode = std::fs::Permissions::from_mode(0o755);
            return std::fs::set_permissions(upper, mode).map_err(fault);
        };
        let layer = self.paths.layer(row.number);
        let like = std::fs::metadata(&layer).map_err(|e| Error::file("look at", &layer, e))?;
        std::os::unix::fs::chown(upper, Some(like.uid()), Some(like.gid())).map_err(fault)?;
        let mode = std::fs::Permissions::from_mode(like.mode() & 0o7777);
        std::fs::set_permissions(upper, mode).map_err(fault)?;
        let time = Timespec { tv_sec: like.mtime(), tv_nsec: like.mtime_nsec() };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, upper, &times, rustix::fs::AtFlags::empty())
            .map_err(|e| fault(e.into()))
    }

    fn mount(&self, key: &str, lower: &[u64]) -> Mount {
        // Overlay refuses a directory that is there twice (ELOOP). Images do have a layer twice; all
        // that the lower one has, the upper one shows.
        let mut seen = HashSet::new();
        let once = lower.iter().rev().filter(|number| seen.insert(**number));
        let mut dirs: Vec<String> = once.map(|n| text(&self.paths.layer(*n))).collect();
        if dirs.is_empty() {
            dirs.push(text(&self.paths.empty()));
        }
        let snapshot = self.paths.snapshot(key);
        // index=off: with it, overlay would refuse a lower layer that two file systems share.
        // volatile: an unmount would otherwise sync the whole file system (Linux 5.10).
        let options = vec![
            "index=off".to_owned(),
            "volatile".to_owned(),
            format!("lowerdir={}", dirs.join(":")),
            format!("upperdir={}", text(&snapshot.join("upper"))),
            format!("workdir={}", text(&snapshot.join("work"))),
        ];
        Mount { kind: "overlay".to_owned(), source: "overlay".to_owned(), options }
    }

    /// Makes changes in a writable layer that nothing has written to yet: those in a tar, and names
    /// that are gone. What an earlier try has made is removed first.
    pub(crate) fn fill_snapshot(&self, key: &str, changes: &Path, gone: &[String]) -> Result<()> {
        check_name("snapshot", key)?;
        let snapshot = self.paths.snapshot(key);
        let upper = snapshot.join("upper");
        let Some((image, _)) = read_lower(&snapshot)? else {
            let absent = io::Error::from(io::ErrorKind::NotFound);
            return Err(Error::file("change", &snapshot, absent));
        };
        let layers = self.state().layers_of(&image)?;
        empty(&upper).map_err(|e| Error::file("empty", &upper, e))?;
        self.shape_root(&upper, &layers)?;
        let open = std::fs::File::open(changes).map_err(|e| Error::file("open", changes, e))?;
        let applied = apply_and_hide(io::BufReader::new(open), gone, &upper)?;
        if applied.stands_alone() {
            return Ok(());
        }
        let below: Vec<PathBuf> = layers.iter().map(|row| self.paths.layer(row.number)).collect();
        settle(&upper, &applied, &below)
    }

    /// The same mount again, without making anything.
    pub(crate) fn find_snapshot(&self, key: &str) -> Result<Option<Mount>> {
        check_name("snapshot", key)?;
        let lower = read_lower(&self.paths.snapshot(key))?;
        Ok(lower.map(|(_, lower)| self.mount(key, &lower)))
    }

    /// Lets a writable layer be mounted that was mounted before.
    pub(crate) fn let_mount_again(&self, key: &str) -> Result<()> {
        check_name("snapshot", key)?;
        forget_volatile(&self.paths.snapshot(key))
    }

    /// Removes a writable layer. Says whether there was one.
    pub(crate) fn drop_snapshot(&self, key: &str) -> Result<bool> {
        check_name("snapshot", key)?;
        let path = self.paths.snapshot(key);
        let there = path.symlink_metadata().is_ok();
        if there {
            self.dispose_and_wait(&path, PATIENCE);
            if path.symlink_metadata().is_ok() {
                let busy = io::Error::from(io::ErrorKind::ResourceBusy);
                return Err(Error::file("remove", &path, busy));
            }
        }
        for number in self.forget_snapshot(key) {
            self.dispose(&self.paths.layer(number));
        }
        Ok(there)
    }

    /// Forgets a snapshot. Returns the layers that only it knew of: those that the record lost.
    fn forget_snapshot(&self, key: &str) -> Vec<u64> {
        let mut state = self.state();
        let lower = state.snapshots.remove(key).unwrap_or_default();
        let listed: HashSet<u64> = state.layers.values().map(|row| row.number).collect();
        let standing: HashSet<u64> = state.snapshots.values().flatten().copied().collect();
        lower.into_iter().filter(|n| !listed.contains(n) && !standing.contains(n)).collect()
    }

    /// The paths of the keys' upper directories.
    pub(crate) fn upper(&self, key: &str) -> PathBuf {
        self.paths.snapshot(key).join("upper")
    }
}

/// Removes all that is in a directory.
fn empty(directory: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = rustix::fs::open(directory, flags, Mode::empty())?;
    for name in confined::names(&open)? {
        confined::remove_tree(open.as_fd(), &name)?;
    }
    Ok(())
}

/// Overlay refuses to mount again what was mounted `volatile`, because a crash in between may have
/// cost data. A container's root is not started again after a crash of the machine, so the mark goes.
fn forget_volatile(snapshot: &Path) -> Result<()> {
    let path = snapshot.join("work/work");
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::open(&path, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(Error::file("open", &path, error)),
        Ok(work) => confined::remove_tree(work.as_fd(), b"incompat")
            .map_err(|e| Error::file("clear", &path, e)),
    }
}

fn text(path: &Path) -> String {
    // Overlay splits lower directories at ':' and options at ','; a backslash protects both.
    let mut escaped = String::new();
    for c in path.to_string_lossy().chars() {
        if matches!(c, ':' | ',' | '\\') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_separators_of_overlay_are_escaped() {
        assert_eq!(text(Path::new("/a:b,c")), "/a\\:b\\,c");
    }
}
