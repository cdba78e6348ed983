//! One command of an OCI runtime: run it, wait for it, and never longer than its deadline.

use std::fs::File;
use std::future::Future;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use berth_sys::Signal;
use berth_sys::pipe::{pipe, set_nonblocking};
use berth_sys::spawn::{Group, Spawn};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::{Error, Result};
use crate::reaper::{Reaper, Watched};

/// Of what a command says, only the end is of interest.
const TAIL: usize = 4096;
/// A fifo that was put in a file's place must not make this process wait.
const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();

/// Runs a program to its end and answers its exit code; `None` if the time was up. Everything in
/// its process group has been killed then, and if it failed.
pub(crate) async fn run(
    reaper: &Arc<Reaper>,
    program: Spawn,
    limit: Duration,
) -> Result<Option<u32>> {
    // A shim that dies must not leave a runtime at work: `delete` comes next.
    let program = program.group(Group::Own).parent_death_signal(Signal::KILL);
    let child = Guard(Some(Watched::child(reaper, program.spawn()?)?));
    let Some(watched) = &child.0 else { return Ok(None) };
    match tokio::time::timeout(limit, watched.over()).await {
        Ok(()) => {
            let code = watched.ended(|code| {
                if code != 0 {
                    watched.kill_group();
                }
            });
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

/// An unnamed file in memory that holds `input` and is read from its beginning: nobody has to pump.
pub(crate) fn memory_holding(input: &[u8]) -> Result<OwnedFd> {
    let fd = rustix::fs::memfd_create("runtime", MemfdFlags::CLOEXEC)
        .map_err(|e| Error::file("make", "memfd", e))?;
    let mut file = File::from(fd);
    file.write_all(input).map_err(|e| Error::file("write", "memfd", e))?;
    file.seek(SeekFrom::Start(0)).map_err(|e| Error::file("rewind", "memfd", e))?;
    Ok(file.into())
}

/// An unnamed file in memory for all that a command says.
pub(crate) struct Answer(File);

impl Answer {
    /// Nothing yet; the descriptor is for the command.
    pub(crate) fn new() -> Result<(Self, OwnedFd)> {
        let file = File::from(memory_holding(b"")?);
        let to = file.try_clone().map_err(|e| Error::file("duplicate", "memfd", e))?;
        Ok((Self(file), to.into()))
    }

    /// What was said.
    pub(crate) fn read(mut self) -> Result<Vec<u8>> {
        let mut said = Vec::new();
        self.0
            .seek(SeekFrom::Start(0))
            .and_then(|_| self.0.read_to_end(&mut said))
            .map_err(|e| Error::file("read", "memfd", e))?;
        Ok(said)
    }
}

/// What a command says: the end of it is kept, however much it is.
pub(crate) struct Said {
    from: AsyncFd<OwnedFd>,
    tail: Vec<u8>,
}

impl Said {
    /// Nothing yet; the descriptor is for the command.
    pub(crate) fn new() -> Result<(Self, OwnedFd)> {
        let (read, write) = pipe()?;
        set_nonblocking(&read, true)?;
        let from = berth_job::watch(read, Interest::READABLE)
            .map_err(|e| Error::file("watch", "a pipe", e))?;
        Ok((Self { from, tail: Vec::new() }, write))
    }

    /// Runs `command` and listens to it until its end; whoever it leaves behind is not heard.
    pub(crate) async fn during<T>(&mut self, command: impl Future<Output = T>) -> T {
        tokio::pin!(command);
        loop {
            tokio::select! {
                biased;
                done = &mut command => return done,
                ready = self.from.readable() => match ready {
                    Ok(mut ready) => {
                        ready.clear_ready();
                    }
                    Err(_) => return command.await,
                },
            }
            if !self.read_some() {
                return command.await;
            }
        }
    }

    /// Reads what is there, but not for ever; false at its end.
    fn read_some(&mut self) -> bool {
        let mut buffer = [0; TAIL];
        for _ in 0..64 {
            match rustix::io::read(self.from.get_ref(), &mut buffer) {
                Ok(0) => return false,
                Ok(count) => {
                    self.tail.extend_from_slice(&buffer[..count]);
                    let over = self.tail.len().saturating_sub(TAIL);
                    self.tail.drain(..over);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
        true
    }

    /// The end of what was said.
    pub(crate) fn text(mut self) -> String {
        self.read_some();
        String::from_utf8_lossy(&self.tail).into_owned()
    }

    /// The last line of text that was said.
    pub(crate) fn last_line(mut self) -> Option<String> {
        self.read_some();
        last_line(&self.tail)
    }
}

/// The last line that is not empty, however it is encoded.
fn last_line(text: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    text.lines().rfind(|line| !line.trim().is_empty()).map(str::to_owned)
}

/// The end of a file that somebody else has written; empty if there is none.
pub(crate) fn tail_of(path: &Path, limit: u64) -> Vec<u8> {
    let mut tail = Vec::new();
    let open = File::options().read(true).custom_flags(NONBLOCK).open(path);
    if let Ok(mut file) = open {
        let length = file.metadata().map_or(0, |meta| meta.len());
        let read = file.seek(SeekFrom::Start(length.saturating_sub(limit)));
        // What was read before an error is as good as the whole.
        let _ = read.and_then(|_| file.take(limit).read_to_end(&mut tail));
    }
    tail
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
    async fn of_any_amount_of_output_the_last_line_is_kept() {
        let input = "a line\n".repeat(100_000) + "the last";
        let (mut said, write) = Said::new().unwrap();
        let program = shell("cat").stdin(memory_holding(input.as_bytes()).unwrap()).stdout(write);
        let limit = Duration::from_secs(30);
        let reaper = Arc::default();
        assert_eq!(said.during(run(&reaper, program, limit)).await.unwrap(), Some(0));
        assert!(said.tail.len() <= TAIL);
        assert_eq!(said.last_line().unwrap(), "the last");
        let outcome = run(&reaper, shell("kill -KILL $$"), limit).await.unwrap();
        assert_eq!(outcome, Some(137));
    }

    #[tokio::test]
    async fn a_command_that_fails_takes_along_what_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("alive");
        berth_sys::pipe::make_fifo(&fifo, 0o600).unwrap();
        let end = berth_sys::pipe::open_fifo(&fifo, berth_sys::pipe::FifoEnd::Read).unwrap();
        let script = format!("exec 9>{}; sleep 100 & exit 3", fifo.display());
        let limit = Duration::from_secs(30);
        assert_eq!(run(&Arc::default(), shell(&script), limit).await.unwrap(), Some(3));
        let end = tokio::net::unix::pipe::Receiver::from_owned_fd(end).unwrap();
        end.readable().await.unwrap();
        assert_eq!(end.try_read(&mut [0; 8]).unwrap(), 0);
    }

    #[test]
    fn the_end_of_a_file_is_read_and_a_fifo_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let (file, fifo) = (dir.path().join("file"), dir.path().join("fifo"));
        std::fs::write(&file, "0123456789").unwrap();
        berth_sys::pipe::make_fifo(&fifo, 0o600).unwrap();
        assert_eq!(tail_of(&file, 4), b"6789");
        assert_eq!(tail_of(&file, 40), b"0123456789");
        assert_eq!(tail_of(&fifo, 4), b"");
        assert_eq!(tail_of(&dir.path().join("none"), 4), b"");
    }
}
