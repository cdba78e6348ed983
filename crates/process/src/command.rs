//! One command of an OCI runtime: run it, wait for it, and never longer than its deadline.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use berth_sys::Signal;
use berth_sys::spawn::{Group, Spawn};
use rustix::fs::MemfdFlags;

use crate::error::{Error, Result};
use crate::reaper::{Reaper, Watched};

/// More than this of a command's output is of no interest.
const OUTPUT: u64 = 256 * 1024;

/// Runs a program to its end and answers its exit code; `None` if the time was up: then it and
/// everything in its process group has been killed.
pub(crate) async fn run(
    reaper: &Arc<Reaper>,
    program: Spawn,
    limit: Duration,
) -> Result<Option<u32>> {
    // A shim that dies must not leave a runtime at work: `delete` comes next.
    let program = program.group(Group::Own).parent_death_signal(Signal::KILL);
    let child = Guard(Some(Watched::child(reaper, program.spawn()?)?));
    let Some(watched) = &child.0 else { return Ok(None) };
    match tokio::time::timeout(limit, watched.exited()).await {
        Ok(code) => {
            let mut child = child;
            child.0 = None;
            Ok(Some(code))
        }
        Err(_) => Ok(None),
    }
}

/// Kills what is left of a command when nobody waits for it any more; the sweep reaps it.
struct Guard(Option<Watched>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(watched) = &self.0 {
            watched.kill_group();
        }
    }
}

/// An unnamed file in memory: as stdin it holds any amount of input, as stdout any amount of
/// output, and nobody has to pump.
pub(crate) struct Memory(File);

impl Memory {
    /// An empty one, for output.
    pub(crate) fn new() -> Result<Self> {
        let fd = rustix::fs::memfd_create("runtime", MemfdFlags::CLOEXEC)
            .map_err(|e| Error::file("make", "memfd", e))?;
        Ok(Self(File::from(fd)))
    }

    /// One that holds `input`, read from its beginning.
    pub(crate) fn holding(input: &[u8]) -> Result<OwnedFd> {
        let mut memory = Self::new()?;
        memory.0.write_all(input).map_err(|e| Error::file("write", "memfd", e))?;
        memory.0.seek(SeekFrom::Start(0)).map_err(|e| Error::file("rewind", "memfd", e))?;
        Ok(memory.0.into())
    }

    /// A descriptor for the child.
    pub(crate) fn share(&self) -> Result<OwnedFd> {
        let copy = self.0.try_clone().map_err(|e| Error::file("duplicate", "memfd", e))?;
        Ok(copy.into())
    }

    /// The last line of text that was written to it.
    pub(crate) fn last_line(mut self) -> Option<String> {
        let mut contents = Vec::new();
        self.0.seek(SeekFrom::Start(0)).ok()?;
        self.0.take(OUTPUT).read_to_end(&mut contents).ok()?;
        let text = String::from_utf8_lossy(&contents);
        text.lines().rfind(|line| !line.trim().is_empty()).map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn shell(script: &str) -> Spawn {
        Spawn::new("/bin/sh").arg("-c").arg(script).env("PATH", "/usr/bin:/bin")
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_killed_with_all_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("alive");
        berth_sys::pipe::make_fifo(&fifo, 0o600).unwrap();
        let end = berth_sys::pipe::open_fifo(&fifo, berth_sys::pipe::FifoEnd::Read).unwrap();
        let script = format!("exec 9>{}; sleep 100 & sleep 100", fifo.display());
        let begin = Instant::now();
        let limit = Duration::from_millis(100);
        let outcome = run(&Arc::default(), shell(&script), limit).await.unwrap();
        assert_eq!(outcome, None);
        // Whoever has the fifo open for writing is alive: its end means that nobody is.
        let end = tokio::net::unix::pipe::Receiver::from_owned_fd(end).unwrap();
        end.readable().await.unwrap();
        assert_eq!(end.try_read(&mut [0; 8]).unwrap(), 0);
        assert!(begin.elapsed() < Duration::from_secs(50));
    }

    #[tokio::test]
    async fn input_and_output_need_no_pump() {
        let input = "a line\n".repeat(100_000) + "the last";
        let output = Memory::new().unwrap();
        let program = shell("tail -n 1")
            .stdin(Memory::holding(input.as_bytes()).unwrap())
            .stdout(output.share().unwrap());
        let limit = Duration::from_secs(30);
        assert_eq!(run(&Arc::default(), program, limit).await.unwrap(), Some(0));
        assert_eq!(output.last_line().unwrap(), "the last");
        let outcome = run(&Arc::default(), shell("kill -KILL $$"), limit).await.unwrap();
        assert_eq!(outcome, Some(137));
    }
}
