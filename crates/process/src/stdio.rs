//! The standard streams of a process: where they lead, as URIs say, and what holds them meanwhile.
//!
//! A process gets its end of a pipe or fifo directly; the shim stands between only where it has
//! something to do there: writing the log, or serving a terminal.
//!
//! ```text
//!            no terminal                          terminal
//!  log       process → pipe → pump → log          process ↔ pty → pump → log
//!                              └──▶ who is attached               └──▶ who is attached
//!  fifo      process → fifo                       process ↔ pty → pump → fifo, fifo → pump → pty
//! ```

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use berth_log::{Followers, LogFile, Stream};
use berth_sys::pipe::{FifoEnd, open_fifo, pipe, set_nonblocking};
use rustix::termios::Winsize;

use crate::error::{Error, Result};
use crate::pump::{self, Buffers, Listeners, Pump, SharedLog, lock};
use crate::runtime::Streams;

/// The URI of an output that goes to whoever attaches.
const LIVE: &str = "berth-live:";
/// How long an exec waits for somebody to open the other end of its fifos.
const READER: Duration = Duration::from_secs(5);

/// Where an output goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Nowhere.
    Null,
    /// `berth-log:///path`: a CRI log that the shim writes, and to whoever attaches.
    Log(PathBuf),
    /// `berth-live:`: to whoever attaches, and to nobody else.
    Live,
    /// `/path` or `fifo:///path`: a fifo that somebody else reads.
    Fifo(PathBuf),
    /// `file:///path`: a file, appended to.
    File(PathBuf),
}

/// Where the input comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// From nowhere: end of file at once.
    Null,
    /// `berth-stdin:open` or `berth-stdin:once`: from whoever attaches later.
    Kept {
        /// Closed after the first one to attach has gone.
        once: bool,
    },
    /// A fifo that somebody else writes.
    Fifo(PathBuf),
}

/// The three streams of a process, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Standard input.
    pub stdin: Input,
    /// Standard output; of a terminal, everything.
    pub stdout: Output,
    /// Standard error; not used with a terminal.
    pub stderr: Output,
    /// Whether the process gets a terminal.
    pub terminal: bool,
}

impl Ends {
    /// Reads the URIs of a request.
    pub fn parse(stdin: &str, stdout: &str, stderr: &str, terminal: bool) -> Result<Self> {
        let stdout = output(stdout)?;
        let mut stderr = output(stderr)?;
        // One log holds both streams, so naming it once is enough.
        if stderr == Output::Null && matches!(stdout, Output::Log(_)) {
            stderr = stdout.clone();
        }
        Ok(Self { stdin: input(stdin)?, stdout, stderr, terminal })
    }

    /// The URIs of stdin, stdout and stderr.
    pub fn uris(&self) -> [String; 3] {
        [self.stdin.uri(), self.stdout.uri(), self.stderr.uri()]
    }
}

impl Output {
    fn uri(&self) -> String {
        match self {
            Self::Null => String::new(),
            Self::Log(path) => format!("berth-log://{}", path.display()),
            Self::Live => LIVE.to_owned(),
            Self::Fifo(path) => path.display().to_string(),
            Self::File(path) => format!("file://{}", path.display()),
        }
    }
}

impl Output {
    /// The log that is written of it.
    fn log(&self) -> Option<PathBuf> {
        match self {
            Self::Log(path) => Some(path.clone()),
            _ => None,
        }
    }
}

impl Input {
    fn uri(&self) -> String {
        match self {
            Self::Null => String::new(),
            Self::Kept { once: false } => "berth-stdin:open".to_owned(),
            Self::Kept { once: true } => "berth-stdin:once".to_owned(),
            Self::Fifo(path) => path.display().to_string(),
        }
    }
}

fn output(uri: &str) -> Result<Output> {
    match uri.split_once("://") {
        _ if uri.is_empty() => Ok(Output::Null),
        None if uri == LIVE => Ok(Output::Live),
        None => absolute(uri, uri).map(Output::Fifo),
        Some(("fifo", path)) => absolute(uri, path).map(Output::Fifo),
        Some(("berth-log", path)) => absolute(uri, path).map(Output::Log),
        Some(("file", path)) => absolute(uri, path).map(Output::File),
        Some((scheme, _)) => Err(Error::Unimplemented(format!(
            "{uri:?}: this shim has no {scheme:?} output; use a fifo, file:// or berth-log://"
        ))),
    }
}

fn input(uri: &str) -> Result<Input> {
    match uri {
        "" => Ok(Input::Null),
        "berth-stdin:open" => Ok(Input::Kept { once: false }),
        "berth-stdin:once" => Ok(Input::Kept { once: true }),
        path => absolute(uri, path.strip_prefix("fifo://").unwrap_or(path)).map(Input::Fifo),
    }
}

fn absolute(uri: &str, path: &str) -> Result<PathBuf> {
    if path.starts_with('/') && !path.contains('\0') {
        return Ok(PathBuf::from(path));
    }
    Err(Error::Invalid(format!("stdio {uri:?} is not an absolute path or a known URI")))
}

/// Who the streams are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Outlives the daemon: nobody reading a fifo makes it wait, not die.
    Container,
    /// Serves one caller: nobody reading a fifo means that the caller has gone.
    Exec,
}

/// What the shim holds of a process's streams.
#[derive(Debug, Default)]
pub(crate) struct Stdio {
    /// Outputs that are not read yet, and the logs that are not open yet.
    waiting: Vec<(OwnedFd, Stream, Option<PathBuf>)>,
    /// Who follows stdout and stderr; used where an output is read here.
    pub(crate) followers: [Arc<Followers>; 2],
    logs: Vec<(PathBuf, SharedLog)>,
    pumps: Vec<Pump>,
    /// Fifo to terminal; it stops when it is dropped: input that nobody took is nobody's loss.
    input: Option<Pump>,
    /// What those who are attached send; each stops when it is dropped.
    pub(crate) attached: Vec<Pump>,
    pub(crate) terminal: Option<OwnedFd>,
    /// Writing end of stdin: keeps it open until CloseIO or the end.
    pub(crate) stdin: Option<OwnedFd>,
    /// Reading ends of a container's fifos: with them held, it survives the reader's death.
    readers: Vec<OwnedFd>,
}

impl Stdio {
    /// Opens everything but the log, and answers what the process is to start with.
    pub(crate) async fn open(ends: &Ends, owner: Owner) -> Result<(Self, Streams)> {
        let (mut stdio, mut streams) = (Self::default(), Streams::default());
        if ends.terminal {
            return Ok((stdio, streams));
        }
        match &ends.stdin {
            Input::Null => {}
            Input::Kept { .. } => {
                let (read, write) = pipe()?;
                (streams[0], stdio.stdin) = (Some(read), Some(write));
            }
            Input::Fifo(path) => {
                let read = open_fifo(path, FifoEnd::Read)?;
                stdio.stdin = Some(open_fifo(path, FifoEnd::Write)?);
                set_nonblocking(&read, false)?;
                streams[0] = Some(read);
            }
        }
        let outputs = [(1, &ends.stdout, Stream::Stdout), (2, &ends.stderr, Stream::Stderr)];
        for (at, output, stream) in outputs {
            streams[at] = stdio.output(output, stream, owner).await?;
        }
        Ok((stdio, streams))
    }

    async fn output(
        &mut self,
        output: &Output,
        stream: Stream,
        owner: Owner,
    ) -> Result<Option<OwnedFd>> {
        match output {
            Output::Null => Ok(None),
            Output::Log(_) | Output::Live => {
                let (read, write) = pipe()?;
                self.waiting.push((read, stream, output.log()));
                Ok(Some(write))
            }
            Output::File(path) => append_to(path).map(Some),
            Output::Fifo(path) => {
                let write = self.fifo(path, owner).await?;
                set_nonblocking(&write, false)?;
                Ok(Some(write))
            }
        }
    }

    /// Opens a fifo for writing, as its owner wants it.
    async fn fifo(&mut self, path: &Path, owner: Owner) -> Result<OwnedFd> {
        match owner {
            Owner::Exec => wait_for_reader(path).await,
            Owner::Container => {
                self.readers.push(open_fifo(path, FifoEnd::Read)?);
                Ok(open_fifo(path, FifoEnd::Write)?)
            }
        }
    }

    /// Takes the terminal that the runtime made.
    pub(crate) async fn connect(
        &mut self,
        terminal: OwnedFd,
        ends: &Ends,
        owner: Owner,
    ) -> Result<()> {
        match &ends.stdout {
            Output::Null => {}
            Output::Log(_) | Output::Live => {
                let log = ends.stdout.log();
                self.waiting.push((duplicate(&terminal)?, Stream::Stdout, log));
            }
            // No event tells when a file can be written, so no pump can wait for it.
            Output::File(_) => {
                let message = "a terminal cannot be written to file://; use a fifo or berth-log://";
                return Err(Error::Unimplemented(message.to_owned()));
            }
            Output::Fifo(path) => {
                let write = self.fifo(path, owner).await?;
                self.copy(&terminal, write, owner)?;
            }
        }
        if let Input::Fifo(path) = &ends.stdin {
            let read = open_fifo(path, FifoEnd::Read)?;
            self.stdin = Some(open_fifo(path, FifoEnd::Write)?);
            let to = duplicate(&terminal)?;
            self.input = Some(pump::copy(read, to).map_err(|e| Error::file("read", path, e))?);
        }
        self.terminal = Some(terminal);
        Ok(())
    }

    fn copy(&mut self, terminal: &OwnedFd, to: OwnedFd, owner: Owner) -> Result<()> {
        let from = duplicate(terminal)?;
        let pump = match owner {
            Owner::Container => pump::copy(from, to),
            Owner::Exec => pump::copy_patiently(from, to),
        };
        self.pumps.push(pump.map_err(|e| Error::file("watch", "/dev/ptmx", e))?);
        Ok(())
    }

    /// Opens the logs and starts to write them: only now, because the kubelet counts a container's
    /// starts by its log files.
    pub(crate) fn begin(&mut self, buffers: &Arc<Buffers>) -> Result<()> {
        for path in self.waiting.iter().filter_map(|(_, _, path)| path.as_ref()) {
            if !self.logs.iter().any(|(open, _)| open == path) {
                let log = Arc::new(Mutex::new(LogFile::open(path)?));
                self.logs.push((path.clone(), log));
            }
        }
        for (from, stream, path) in self.waiting.drain(..) {
            let log = self.logs.iter().find(|(open, _)| Some(open) == path.as_ref());
            let followers = &self.followers[usize::from(stream == Stream::Stderr)];
            let to = Listeners {
                log: log.map(|(_, log)| Arc::clone(log)),
                followers: Arc::clone(followers),
            };
            let pump = pump::to_listeners(from, stream, to, Arc::clone(buffers))
                .map_err(|e| Error::file("watch", "a container's output", e))?;
            self.pumps.push(pump);
        }
        Ok(())
    }

    pub(crate) fn reopen_logs(&self) -> Result<()> {
        self.logs.iter().try_for_each(|(_, log)| Ok(lock(log).reopen()?))
    }

    pub(crate) fn dropped_lines(&self) -> u64 {
        self.logs.iter().map(|(_, log)| lock(log).dropped()).sum()
    }

    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Sets the size of the terminal; false if there is none.
    pub(crate) fn resize(&self, columns: u16, rows: u16) -> Result<bool> {
        let Some(terminal) = &self.terminal else { return Ok(false) };
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(terminal, size)
            .map_err(|e| Error::file("resize", "the terminal", e))?;
        Ok(true)
    }

    /// The pumps that have to end before the process's output is complete. The logs stay open: they
    /// are asked about later.
    pub(crate) fn end(&mut self) -> Vec<Pump> {
        self.stdin = None;
        self.input = None;
        self.attached = Vec::new();
        self.terminal = None;
        self.readers = Vec::new();
        self.waiting = Vec::new();
        std::mem::take(&mut self.pumps)
    }
}

pub(crate) fn duplicate(fd: &OwnedFd) -> Result<OwnedFd> {
    fd.try_clone().map_err(|e| Error::file("duplicate", "the terminal", e))
}

fn append_to(path: &Path) -> Result<OwnedFd> {
    let file = std::fs::File::options().create(true).append(true).open(path);
    file.map(Into::into).map_err(|e| Error::file("open", path, e))
}

/// Opens a fifo for writing once somebody reads it.
async fn wait_for_reader(path: &Path) -> Result<OwnedFd> {
    let end = Instant::now() + READER;
    loop {
        match open_fifo(path, FifoEnd::Write) {
            Err(error) if error.errno() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
                if Instant::now() > end {
                    let (what, id) = ("wait for a reader of", path.display().to_string());
                    return Err(Error::TimedOut { what, id, limit: READER });
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            other => return Ok(other?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_say_where_streams_lead() {
        let ends = Ends::parse("berth-stdin:once", "berth-log:///l/0.log", "", false).unwrap();
        let log = Output::Log("/l/0.log".into());
        assert_eq!((&ends.stdout, &ends.stderr), (&log, &log));
        assert_eq!(ends.stdin, Input::Kept { once: true });
        assert_eq!(
            ends.uris(),
            ["berth-stdin:once", "berth-log:///l/0.log", "berth-log:///l/0.log"]
        );
        let ends = Ends::parse("/f/in", "/f/out", "fifo:///f/err", false).unwrap();
        assert_eq!(ends.stdin, Input::Fifo("/f/in".into()));
        assert_eq!(ends.uris(), ["/f/in", "/f/out", "/f/err"]);
        assert_eq!(ends.stdout, Output::Fifo("/f/out".into()));
        assert_eq!(ends.stderr, Output::Fifo("/f/err".into()));
        let ends = Ends::parse("", "", "", true).unwrap();
        assert_eq!((ends.stdin, ends.stdout), (Input::Null, Output::Null));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for uri in ["relative", "berth-log://relative", "file://x"] {
            let error = Ends::parse("", uri, "", false).unwrap_err();
            assert_eq!(error.kind(), crate::Kind::Invalid, "{uri}");
        }
        let error = Ends::parse("", "binary:///bin/logger", "", false).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Unimplemented);
        Ends::parse("berth-stdin:maybe", "", "", false).unwrap_err();
    }
}
