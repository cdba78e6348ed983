//! Attaching to a container's streams: what it says from now on, and what it is sent.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_sys::pipe::{FifoEnd, open_fifo};

use crate::error::{Error, Result};
use crate::pump;
use crate::stdio::{Ends, Input, Output, Stdio, duplicate};

/// Fifos whose other ends somebody holds who is attached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    /// Its name, by which it is ended.
    pub id: String,
    /// Where a byte says that its outputs were cut off, being too far behind.
    pub cut: PathBuf,
    /// What the container is sent.
    pub stdin: Option<PathBuf>,
    /// What it says on stdout; of a terminal, everything.
    pub stdout: Option<PathBuf>,
    /// What it says on stderr; a terminal says nothing there.
    pub stderr: Option<PathBuf>,
}

impl Stdio {
    /// Connects the fifos of `what`. Its outputs are closed at the end of the container's, after the
    /// last that was said, or when `what` is too far behind. An input that is open for one attachment
    /// ends with that one.
    pub(crate) fn attach(&mut self, id: &str, ends: &Ends, what: &Attachment) -> Result<()> {
        // All are opened before the first is used: what fails leaves nothing attached.
        let input = match &what.stdin {
            Some(path) => Some((self.input_of(id, ends)?, open_fifo(path, FifoEnd::Read)?, path)),
            None => None,
        };
        let open = |path: &Option<PathBuf>, output: &Output| -> Result<Option<OwnedFd>> {
            let Some(path) = path else { return Ok(None) };
            match output {
                Output::Log(_) | Output::Live => Ok(Some(open_fifo(path, FifoEnd::Write)?)),
                _ => Err(Error::Unimplemented(format!(
                    "the output of container {id} goes to whoever created it: nobody else can be attached"
                ))),
            }
        };
        let stdout = open(&what.stdout, &ends.stdout)?;
        let stderr = match ends.terminal {
            true => None,
            false => open(&what.stderr, &ends.stderr)?,
        };
        let cut = Arc::new(open_fifo(&what.cut, FifoEnd::Write)?);
        if let Some((to, from, path)) = input {
            self.send(from, to, path)?;
            if ends.stdin == (Input::Kept { once: true }) {
                // What was handed over is the only one: it closes the input with its end.
                self.stdin = None;
            }
        }
        for (followers, to) in self.followers.iter().zip([stdout, stderr]) {
            if let Some(to) = to {
                followers.add(&what.id, to, &cut);
            }
        }
        Ok(())
    }

    /// Ends an attachment's outputs.
    pub(crate) fn detach(&self, attachment: &str) {
        self.followers.iter().for_each(|followers| followers.remove(attachment));
    }

    /// The writing end of a container's input.
    fn input_of(&self, id: &str, ends: &Ends) -> Result<OwnedFd> {
        let state = match (&ends.stdin, &self.terminal, &self.stdin) {
            (Input::Kept { .. }, Some(terminal), _) => return duplicate(terminal),
            (Input::Kept { .. }, None, Some(stdin)) => return duplicate(stdin),
            (Input::Kept { once: true }, None, None) => {
                "its stdin is open for one attachment only, which it has had: attach without stdin"
            }
            (Input::Kept { .. }, None, None) => "it has ended",
            (Input::Fifo(_), ..) => "its stdin is whose who created it",
            (Input::Null, ..) => "it has no stdin: create it with one, or attach without",
        };
        Err(Error::state("attach to", id, state))
    }

    fn send(&mut self, from: OwnedFd, to: OwnedFd, path: &Path) -> Result<()> {
        let pump = pump::copy(from, to).map_err(|e| Error::file("read", path, e))?;
        self.attached.retain(|pump| !pump.is_over());
        self.attached.push(pump);
        Ok(())
    }
}
