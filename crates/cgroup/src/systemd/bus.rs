//! Calls to systemd's manager over the system bus, each on a connection of its own.

use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::Property;
use super::wire::{self, Call, FAILURE, FIXED, Message, Writer};
use crate::error::{Error, Result};

/// Where the bus listens (D-Bus specification, "Well-known Message Bus Instances").
const SOCKET: &str = "/run/dbus/system_bus_socket";
/// How long systemd may take for one thing, with all that is said for it.
const LIMIT: Duration = Duration::from_secs(30);
/// More is no line of an authentication.
const LINE: u64 = 4096;

const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";

const MANAGER: Call<'_> = Call {
    to: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
    method: "",
    signature: "",
};
const BUS: Call<'_> = Call {
    to: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
    method: "",
    signature: "",
};

/// Makes a slice with these properties; one that there is gets them. Waits until it is there.
///
/// # Errors
/// [`Error::Bus`] without a system bus, [`Error::Unit`] if systemd refuses.
pub fn start_slice(name: &str, properties: &[Property]) -> Result<()> {
    let mut all = vec![
        // Nothing is to end it at shutdown before what is in it.
        Property::Flag("DefaultDependencies", false),
        Property::Flag("CPUAccounting", true),
        Property::Flag("MemoryAccounting", true),
        Property::Flag("IOAccounting", true),
        Property::Flag("TasksAccounting", true),
    ];
    all.extend_from_slice(properties);
    let mut body = Writer::default();
    body.text(name);
    body.text("fail");
    body.properties(&all);
    body.no_units();
    let call = Call { method: "StartTransientUnit", signature: "ssa(sv)a(sa(sv))", ..MANAGER };
    match Connection::open()?.job(&Attempt { verb: "start", unit: name }, &call, &body) {
        Err(Error::Unit { name: error, .. }) if error == UNIT_EXISTS => set(name, properties),
        done => done,
    }
}

/// Changes properties of a unit, until the machine is started anew, and waits until systemd has written
/// the files of its cgroup: it writes those that no property stands for (`memory.oom.group`) as well.
///
/// # Errors
/// As [`start_slice`].
pub fn set(unit: &str, properties: &[Property]) -> Result<()> {
    if properties.is_empty() {
        return Ok(());
    }
    let mut body = Writer::default();
    body.text(unit);
    body.flag(true);
    body.properties(properties);
    let call = Call { method: "SetUnitProperties", signature: "sba(sv)", ..MANAGER };
    let attempt = Attempt { verb: "set properties of", unit };
    let mut connection = Connection::open()?;
    connection.call(&attempt, &call, &body)?;
    // The files are written before the next message is read (systemd 252, manager_loop).
    let mut body = Writer::default();
    body.text(unit);
    let call = Call { method: "GetUnit", signature: "s", ..MANAGER };
    connection.call(&attempt, &call, &body).map(drop)
}

/// Stops a unit, and waits until it is. One that there is not is fine.
///
/// # Errors
/// As [`start_slice`].
pub fn stop(unit: &str) -> Result<()> {
    let mut body = Writer::default();
    body.text(unit);
    body.text("replace");
    let call = Call { method: "StopUnit", signature: "ss", ..MANAGER };
    let mut connection = Connection::open()?;
    absent_is_fine(connection.job(&Attempt { verb: "stop", unit }, &call, &body))?;
    // A unit that ended badly stays listed until somebody takes note.
    let mut body = Writer::default();
    body.text(unit);
    let call = Call { method: "ResetFailedUnit", signature: "s", ..MANAGER };
    let attempt = Attempt { verb: "forget the failure of", unit };
    absent_is_fine(connection.call(&attempt, &call, &body).map(drop))
}

fn absent_is_fine(done: Result<()>) -> Result<()> {
    match done {
        Err(Error::Unit { name, .. }) if name == NO_SUCH_UNIT => Ok(()),
        done => done,
    }
}

/// What is attempted with which unit.
struct Attempt<'a> {
    verb: &'static str,
    unit: &'a str,
}

/// A socket that is read until a point in time and no longer, in however small pieces it is answered.
struct Patient {
    stream: UnixStream,
    end: Instant,
}

impl Patient {
    /// Connects; a bus that lets nobody in any more is waited for until then, too.
    fn connect(path: &Path, end: Instant) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        set_socket_timeout(&socket, Timeout::Send, Some(left))?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self { stream: UnixStream::from(socket), end })
    }
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(buffer)
    }
}

struct Connection {
    stream: BufReader<Patient>,
    socket: PathBuf,
    serial: u32,
    /// The connection of systemd: anybody may send signals.
    manager: String,
    /// Jobs that were done before it was known which one is ours.
    done: Vec<(String, String)>,
}

impl Connection {
    fn open() -> Result<Self> {
        Self::over(Path::new(SOCKET), LIMIT)
    }

    fn over(path: &Path, limit: Duration) -> Result<Self> {
        let broken = |source| Error::Bus { socket: path.to_owned(), source };
        let stream = Patient::connect(path, Instant::now() + limit).map_err(broken)?;
        let mut connection = Self {
            stream: BufReader::new(stream),
            socket: path.to_owned(),
            serial: 0,
            manager: String::new(),
            done: Vec::new(),
        };
        connection.authenticate().map_err(broken)?;
        let attempt = Attempt { verb: "greet", unit: "the bus" };
        connection.call(&attempt, &Call { method: "Hello", ..BUS }, &Writer::default())?;
        Ok(connection)
    }

    fn broken(&self, source: io::Error) -> Error {
        Error::Bus { socket: self.socket.clone(), source }
    }

    /// EXTERNAL: the kernel tells the bus who we are; the user's number stands in hexadecimal digits
    /// of its decimal ones.
    fn authenticate(&mut self) -> io::Result<()> {
        let user = rustix::process::geteuid().as_raw().to_string();
        let digits: String = user.bytes().map(|byte| format!("{byte:02x}")).collect();
        self.send(format!("\0AUTH EXTERNAL {digits}\r\n").as_bytes())?;
        let mut line = String::new();
        self.stream.by_ref().take(LINE).read_line(&mut line)?;
        if !line.starts_with("OK ") {
            return Err(io::Error::other(format!("it does not let us in: {}", line.trim())));
        }
        self.send(b"BEGIN\r\n")
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().stream.write_all(bytes)
    }

    fn next(&mut self) -> io::Result<Message> {
        let wrong = || io::Error::from(io::ErrorKind::InvalidData);
        let mut fixed = [0; FIXED];
        self.stream.read_exact(&mut fixed)?;
        let rest = wire::rest(&fixed).ok_or_else(wrong)?;
        let mut bytes = fixed.to_vec();
        // Memory is taken as bytes come, not as lengths promise.
        let got = self.stream.by_ref().take(rest as u64).read_to_end(&mut bytes)?;
        if got < rest {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let message = wire::parse(&bytes).ok_or_else(wrong)?;
        if let Some((job, result)) = message.job()
            && message.sender == self.manager
        {
            self.done.push((job.to_owned(), result.to_owned()));
        }
        Ok(message)
    }

    /// Calls and waits for the answer.
    fn call(&mut self, attempt: &Attempt<'_>, call: &Call<'_>, body: &Writer) -> Result<Message> {
        self.serial += 1;
        self.send(&call.message(self.serial, body)).map_err(|why| self.broken(why))?;
        loop {
            let message = self.next().map_err(|why| self.broken(why))?;
            if message.answers != self.serial {
                continue;
            }
            if message.kind != FAILURE {
                return Ok(message);
            }
            let text = message.text().unwrap_or_default().to_owned();
            return Err(attempt.refused(message.error, text));
        }
    }

    /// Calls for a job and waits until it is done.
    fn job(&mut self, attempt: &Attempt<'_>, call: &Call<'_>, body: &Writer) -> Result<()> {
        let mut rule = Writer::default();
        rule.text(
            "type='signal',sender='org.freedesktop.systemd1',\
             interface='org.freedesktop.systemd1.Manager',member='JobRemoved'",
        );
        let listen = Call { method: "AddMatch", signature: "s", ..BUS };
        self.call(attempt, &listen, &rule)?;
        // systemd sends signals while somebody is subscribed.
        let subscribe = Call { method: "Subscribe", ..MANAGER };
        self.manager = self.call(attempt, &subscribe, &Writer::default())?.sender;
        let answer = self.call(attempt, call, body)?;
        let job = answer.text().unwrap_or_default().to_owned();
        loop {
            if let Some((_, result)) = self.done.iter().find(|(done, _)| *done == job) {
                return match result.as_str() {
                    "done" | "skipped" => Ok(()),
                    result => Err(attempt.refused(format!("job {result}"), String::new())),
                };
            }
            self.next().map_err(|why| self.broken(why))?;
        }
    }
}

impl Attempt<'_> {
    fn refused(&self, name: String, text: String) -> Error {
        Error::Unit { attempted: self.verb, unit: self.unit.to_owned(), name, text }
    }
}

#[cfg(test)]
mod tests;
