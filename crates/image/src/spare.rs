//! Room for one more record on a full disk: to remove an image, its removal must be written first.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;

/// A removal changes a few dozen pages of 4 KiB, each written to the log.
const SIZE: usize = 512 << 10;

/// A file of zeros that gives its place to a record, and is made anew when there is room again.
pub(crate) struct Spare {
    path: PathBuf,
    kept: bool,
}

impl Spare {
    /// Room in a file of this name, as far as the disk has some.
    pub(crate) fn new(path: PathBuf) -> Self {
        let kept = path.metadata().is_ok_and(|meta| meta.len() == SIZE as u64);
        let mut spare = Self { path, kept };
        spare.keep();
        spare
    }

    /// Makes the file if it is not there.
    pub(crate) fn keep(&mut self) {
        if self.kept {
            return;
        }
        match self.write() {
            Ok(()) => self.kept = true,
            Err(error) => {
                tracing::debug!(path = %self.path.display(), %error, "no room to spare");
                // Half a file would take the room that a record needs now.
                let _ = std::fs::remove_file(&self.path);
            }
        }
    }

    fn write(&self) -> io::Result<()> {
        // Written, not only made longer: a hole is no room.
        File::create(&self.path)?.write_all(&vec![0; SIZE])
    }

    /// Gives the room up; says whether there was any.
    pub(crate) fn give_up(&mut self) -> bool {
        let gone = std::fs::remove_file(&self.path).is_ok();
        std::mem::take(&mut self.kept) || gone
    }
}
