//! Which network is configured: the first valid file of a directory, read again when it changes.
//!
//! The directory is looked at on each use (one `readdir` and a few `stat`s) and its files parsed
//! only when that look differs from the last: no watch to lose events, no inotify instance.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::NetworkList;

/// A file is never larger than this.
const MAX_FILE: u64 = 1 << 20;

/// A file that changed this recently may change again without a new time stamp, whose steps are
/// those of the kernel's tick: such a look is not remembered.
const RACY: Duration = Duration::from_millis(100);

/// Why there is no network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absent {
    /// The directory that was looked into.
    pub dir: PathBuf,
    /// Why it could not be read, if so.
    pub unreadable: Option<String>,
    /// The files that were passed over.
    pub skipped: Vec<Skipped>,
}

/// A file that was passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

impl std::fmt::Display for Absent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dir = self.dir.display();
        if let Some(problem) = &self.unreadable {
            return write!(f, "no CNI network: cannot read {dir}: {problem}");
        }
        if self.skipped.is_empty() {
            return write!(f, "no CNI network: {dir} holds no .conflist, .conf or .json file");
        }
        write!(f, "no CNI network: no file in {dir} is usable")?;
        for Skipped { path, problem } in &self.skipped {
            write!(f, "; {}: {problem}", path.display())?;
        }
        Ok(())
    }
}

/// What one look at the directory saw of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    name: OsString,
    inode: (u64, u64),
    size: u64,
    changed: (i64, i64),
}

type Found = Result<Arc<NetworkList>, Arc<Absent>>;

/// The configuration directory.
#[derive(Debug)]
pub(crate) struct Discovery {
    dir: PathBuf,
    last: Mutex<Option<(Vec<Mark>, Found)>>,
}

impl Discovery {
    pub(crate) fn new(dir: PathBuf) -> Discovery {
        Discovery { dir, last: Mutex::new(None) }
    }

    /// The network as it is configured now.
    pub(crate) fn current(&self) -> Found {
        let marks = match look(&self.dir) {
            Ok(marks) => marks,
            Err(e) => {
                let absent = Absent {
                    dir: self.dir.clone(),
                    unreadable: Some(e.to_string()),
                    skipped: Vec::new(),
                };
                return Err(Arc::new(absent));
            }
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((seen, found)) = last.as_ref()
            && *seen == marks
        {
            return found.clone();
        }
        let found = first_valid(&self.dir, &marks);
        report(last.as_ref().map(|(_, found)| found), &found);
        let settled = !marks.iter().any(Mark::is_racy);
        // A look that may be out of date is kept only to tell whether the next one differs.
        let seen = if settled { marks } else { vec![Mark::never()] };
        *last = Some((seen, found.clone()));
        found
    }
}

impl Mark {
    fn is_racy(&self) -> bool {
        let Ok(seconds) = u64::try_from(self.changed.0) else { return false };
        let nanos = u32::try_from(self.changed.1).unwrap_or(0);
        let changed = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos);
        // A time in the future is as good as "just now".
        changed.elapsed().map_or(true, |age| age < RACY)
    }

    /// Equal to no file's mark: a name is never empty.
    fn never() -> Mark {
        Mark { name: OsString::new(), inode: (0, 0), size: 0, changed: (0, 0) }
    }
}

/// The candidate files, sorted by name.
fn look(dir: &Path) -> io::Result<Vec<Mark>> {
    let mut marks = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        let extension = Path::new(&name).extension().and_then(|e| e.to_str());
        if !matches!(extension, Some("conflist" | "conf" | "json")) {
            continue;
        }
        // Through symbolic links; one that leads nowhere is reported when it is read.
        let meta = std::fs::metadata(dir.join(&name)).ok();
        marks.push(Mark {
            name,
            inode: meta.as_ref().map_or((0, 0), |m| (m.dev(), m.ino())),
            size: meta.as_ref().map_or(0, |m| m.size()),
            changed: meta.as_ref().map_or((0, 0), |m| (m.ctime(), m.ctime_nsec())),
        });
    }
    marks.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(marks)
}

fn first_valid(dir: &Path, marks: &[Mark]) -> Found {
    let mut skipped = Vec::new();
    for mark in marks {
        let path = dir.join(&mark.name);
        match read(&path) {
            Ok(list) => {
                for Skipped { path, problem } in &skipped {
                    tracing::warn!(file = %path.display(), problem, "passed over a CNI configuration");
                }
                return Ok(Arc::new(list));
            }
            Err(problem) => skipped.push(Skipped { path, problem }),
        }
    }
    Err(Arc::new(Absent { dir: dir.to_owned(), unreadable: None, skipped }))
}

fn read(path: &Path) -> Result<NetworkList, String> {
    let meta = std::fs::metadata(path).map_err(|e| e.to_string())?;
    if !meta.is_file() {
        return Err("not a regular file".into());
    }
    if meta.len() > MAX_FILE {
        return Err(format!("larger than {MAX_FILE} bytes"));
    }
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    NetworkList::parse(path, &text).map_err(|error| match error {
        crate::Error::Config { problem, .. } => problem,
        other => other.to_string(),
    })
}

fn report(before: Option<&Found>, now: &Found) {
    match (before, now) {
        (Some(Ok(before)), Ok(now)) if before == now => {}
        (Some(Err(before)), Err(now)) if before == now => {}
        (_, Ok(now)) => {
            tracing::info!(network = now.name, file = %now.file.display(), version = %now.version,
                "CNI network configured");
        }
        (_, Err(absent)) => tracing::warn!("{absent}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(name: &str) -> String {
        format!(r#"{{"cniVersion":"1.0.0","name":"{name}","plugins":[{{"type":"a"}}]}}"#)
    }

    fn dir() -> (tempfile::TempDir, Discovery) {
        let dir = tempfile::tempdir().unwrap();
        let discovery = Discovery::new(dir.path().to_owned());
        (dir, discovery)
    }

    #[test]
    fn the_first_valid_file_by_name_wins() {
        let (dir, discovery) = dir();
        std::fs::write(dir.path().join("05-broken.conflist"), "{").unwrap();
        std::fs::write(dir.path().join("20-b.conflist"), network("b")).unwrap();
        std::fs::write(dir.path().join("10-a.conflist"), network("a")).unwrap();
        std::fs::write(dir.path().join("00-x.conflist.bak"), network("x")).unwrap();
        assert_eq!(discovery.current().unwrap().name, "a");
    }

    #[test]
    fn a_change_is_seen_at_the_next_use() {
        let (dir, discovery) = dir();
        assert!(discovery.current().unwrap_err().to_string().contains("holds no .conflist"));
        let path = dir.path().join("10-a.conflist");
        // The same length in quick succession: neither size nor time need tell them apart.
        for name in ["one", "two", "six"] {
            std::fs::write(&path, network(name)).unwrap();
            assert_eq!(discovery.current().unwrap().name, name);
        }
        std::fs::remove_file(&path).unwrap();
        assert!(discovery.current().is_err());
    }

    #[test]
    fn an_unchanged_directory_is_not_parsed_again() {
        let (dir, discovery) = dir();
        let path = dir.path().join("10-a.conflist");
        std::fs::write(&path, network("a")).unwrap();
        let marks = || look(dir.path()).unwrap();
        while marks().iter().any(Mark::is_racy) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let first = discovery.current().unwrap();
        assert!(Arc::ptr_eq(&first, &discovery.current().unwrap()));
    }

    #[test]
    fn what_is_wrong_with_each_file_is_told() {
        let (dir, discovery) = dir();
        std::fs::write(dir.path().join("a.conflist"), "{").unwrap();
        std::fs::create_dir(dir.path().join("b.conf")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("c.json")).unwrap();
        let absent = discovery.current().unwrap_err();
        assert_eq!(absent.skipped.len(), 3);
        let text = absent.to_string();
        for part in ["a.conflist: not a JSON", "b.conf: not a regular file", "c.json: No such"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn a_missing_directory_is_named() {
        let discovery = Discovery::new("/nonexistent/net.d".into());
        let text = discovery.current().unwrap_err().to_string();
        assert!(text.contains("cannot read /nonexistent/net.d: No such file"), "{text}");
    }
}
