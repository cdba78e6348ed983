//! The file behind a log. It never makes the container wait or fail: what cannot be written is
//! dropped, by whole lines, and counted.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::{Error, LINE, Result};

/// Neither a fifo without a reader nor a device is waited for.
const NO_WAIT: i32 = OFlags::NONBLOCK.union(OFlags::NOCTTY).bits().cast_signed();

/// An open log file.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
    /// The rest of a line that was written in part when the disk became full: it goes first.
    torn: Vec<u8>,
    dropped: u64,
}

impl LogFile {
    /// Opens the file for appending; it and the directory above it are made if need be.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_owned(), file: append_to(path)?, torn: Vec::new(), dropped: 0 })
    }

    /// As [`LogFile::open`], after a writer that was killed: a line that it left unfinished is cut
    /// off, and will be written again.
    pub fn resume(path: &Path) -> Result<Self> {
        let log = Self::open(path)?;
        cut_torn(path).map_err(|source| Error { path: path.to_owned(), source })?;
        Ok(log)
    }

    /// Writes to a new file of the same name from now on: somebody has moved the old one away. If
    /// that cannot be opened, the old one stays in use.
    pub fn reopen(&mut self) -> Result<()> {
        self.file = append_to(&self.path)?;
        // The beginning of that line is in the other file.
        self.dropped += u64::from(!std::mem::take(&mut self.torn).is_empty());
        Ok(())
    }

    /// Writes whole lines. Lines that cannot be written are dropped.
    pub fn write(&mut self, lines: &[u8]) {
        if !self.torn.is_empty() {
            let done = write_some(&mut self.file, &self.torn);
            self.torn.drain(..done);
            if !self.torn.is_empty() {
                self.dropped += count(lines);
                return;
            }
            self.torn = Vec::new();
        }
        let done = write_some(&mut self.file, lines);
        if done == lines.len() {
            return;
        }
        let mut rest = &lines[done..];
        if done > 0 && lines[done - 1] != b'\n' {
            let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
            self.torn = rest[..end].to_vec();
            rest = &rest[end..];
        }
        self.dropped += count(rest);
    }

    /// How many lines have been dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

fn append_to(path: &Path) -> Result<File> {
    if let Some(dir) = path.parent() {
        // The kubelet makes this directory; other callers may not have.
        std::fs::create_dir_all(dir).map_err(|source| Error { path: dir.to_owned(), source })?;
    }
    let mut options = File::options();
    options.create(true).append(true).mode(0o640).custom_flags(NO_WAIT);
    let log = |source| Error { path: path.to_owned(), source };
    let file = options.open(path).map_err(log)?;
    let kind = file.metadata().map_err(log)?.file_type();
    if kind.is_file() || kind.is_char_device() {
        return Ok(file);
    }
    Err(log(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file")))
}

/// Cuts a file after its last newline, as far back as a line can reach.
fn cut_torn(path: &Path) -> io::Result<()> {
    let file = File::options().read(true).write(true).custom_flags(NO_WAIT).open(path)?;
    let length = file.metadata()?.len();
    let window = length.min(2 * LINE as u64);
    let mut end = vec![0; usize::try_from(window).unwrap_or_default()];
    file.read_exact_at(&mut end, length - window)?;
    let torn = end.iter().rev().take_while(|byte| **byte != b'\n').count();
    if torn == 0 || (torn == end.len() && window < length) {
        return Ok(());
    }
    file.set_len(length - torn as u64)
}

/// How much could be written.
fn write_some(file: &mut impl Write, mut bytes: &[u8]) -> usize {
    let all = bytes.len();
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => break,
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    all - bytes.len()
}

fn count(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_appends_and_reopens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pod/0.log");
        let mut log = LogFile::open(&path).unwrap();
        log.write(b"one\n");
        std::fs::rename(&path, dir.path().join("old")).unwrap();
        log.write(b"two\n");
        assert!(!path.exists());
        log.reopen().unwrap();
        log.write(b"three\n");
        assert_eq!(std::fs::read(dir.path().join("old")).unwrap(), b"one\ntwo\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"three\n");
        log.reopen().unwrap();
        log.write(b"four\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"three\nfour\n");
        assert_eq!(log.dropped(), 0);
    }

    #[test]
    fn a_line_that_a_killed_writer_left_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        for (left, kept) in [("", ""), ("one\n", "one\n"), ("one\ntw", "one\n"), ("on", "")] {
            std::fs::write(&path, left).unwrap();
            let mut log = LogFile::resume(&path).unwrap();
            log.write(b"next\n");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{kept}next\n"));
        }
    }

    #[test]
    fn a_failed_reopen_keeps_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = LogFile::open(&path).unwrap();
        std::fs::rename(&path, dir.path().join("old")).unwrap();
        std::fs::create_dir(&path).unwrap();
        log.reopen().unwrap_err();
        log.write(b"still here\n");
        assert_eq!(std::fs::read(dir.path().join("old")).unwrap(), b"still here\n");
    }

    #[test]
    fn a_full_disk_drops_whole_lines_and_counts_them() {
        // /dev/full answers ENOSPC to every write.
        let mut log = LogFile::open(Path::new("/dev/full")).unwrap();
        log.write(b"one\ntwo\n");
        log.write(b"three\n");
        assert_eq!(log.dropped(), 3);
    }

    #[test]
    fn a_line_cut_by_a_full_disk_is_completed_when_there_is_room() {
        use berth_sys::mounts::{self, Flags, Propagation};
        berth_sys::namespace::unshare(&[berth_sys::namespace::Namespace::Mount]).unwrap();
        mounts::set_propagation("/", Propagation::Private, true).unwrap();
        let dir = tempfile::tempdir().unwrap();
        mounts::mount("tmpfs", dir.path(), "tmpfs", Flags::empty(), "size=64k").unwrap();
        let ballast = dir.path().join("ballast");
        std::fs::write(&ballast, vec![0; 32 * 1024]).unwrap();
        let path = dir.path().join("0.log");
        let mut log = LogFile::open(&path).unwrap();
        let line = |n: usize| format!("{n:05} {}\n", "x".repeat(994));
        for n in 0..50 {
            log.write((line(n) + &line(n + 1000)).as_bytes());
        }
        let before = log.dropped();
        assert!(before > 30, "{before}");
        std::fs::remove_file(&ballast).unwrap();
        log.write(line(2000).as_bytes());
        log.write(line(2001).as_bytes());
        assert_eq!(log.dropped(), before);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.split_inclusive('\n').collect();
        assert_eq!(lines.len() as u64 + before, 102);
        let whole = |text: &&str| **text == line(text[..5].parse().unwrap());
        assert!(lines.iter().all(whole), "no line is cut or mixed with another");
        assert!(text.ends_with(&(line(2000) + &line(2001))));
        drop(log);
        mounts::unmount_all(dir.path()).unwrap();
    }
}
