//! One daemon for one root, and for one state directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// How long a lock may stay taken after the death of its daemon: a child of it shares its
/// descriptors until it execs. Until then the child may not be in its cgroup either, so that the
/// fence would miss it: waiting is right, not only polite.
const PATIENCE: Duration = Duration::from_secs(2);

/// Held as long as the daemon lives; the kernel lets go of it when the process dies.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, or says who has it; `key` says which directory it is for.
    pub(crate) fn take(path: &Path, key: &str) -> anyhow::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .with_context(|| format!("cannot open the lock file {}", path.display()))?;
        match patiently(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).ok();
                bail!(
                    "another berth (pid {}) serves this node: it holds {}. Stop it first, or give \
                     this one a configuration with another `{key}` directory",
                    holder.trim(),
                    path.display()
                );
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { _file: file })
    }
}

/// Tries until the lock is free, or has stayed taken for too long to be a dead daemon's.
fn patiently(file: &File) -> Result<(), TryLockError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_one_is_told_who_was_first_and_may_come_after_it() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("lock");
        let first = Lock::take(&path, "state").unwrap();
        let refusal = Lock::take(&path, "state").unwrap_err().to_string();
        assert!(refusal.contains(&format!("pid {}", std::process::id())), "{refusal}");
        drop(first);
        Lock::take(&path, "state").unwrap();
    }
}
