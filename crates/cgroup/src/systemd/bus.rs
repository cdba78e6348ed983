//! Calls to systemd's manager over the system bus, each on a connection of its own.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::Property;
use super::wire::{self, Call, FAILURE, FIXED, Message, Writer};
use crate::error::{Error, Result};

/// Where the bus listens (D-Bus specification, "Well-known Message Bus Instances").
const SOCKET: &str = "/run/dbus/system_bus_socket";
/// How long systemd may take for one thing.
const LIMIT: Duration = Duration::from_secs(30);

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

struct Connection {
    stream: BufReader<UnixStream>,
    serial: u32,
    end: Instant,
    /// Jobs that were done before it was known which one is ours.
    done: Vec<(String, String)>,
    subscribed: bool,
}

impl Connection {
    fn open() -> Result<Self> {
        let path = Path::new(SOCKET);
        let broken = |error| Error::Bus { socket: path.to_owned(), source: error };
        let stream = UnixStream::connect(path).map_err(broken)?;
        stream.set_write_timeout(Some(LIMIT)).map_err(broken)?;
        let mut connection = Self {
            stream: BufReader::new(stream),
            serial: 0,
            end: Instant::now() + LIMIT,
            done: Vec::new(),
            subscribed: false,
        };
        connection.authenticate().map_err(broken)?;
        let attempt = Attempt { verb: "greet", unit: "the bus" };
        connection.call(&attempt, &Call { method: "Hello", ..BUS }, &Writer::default())?;
        Ok(connection)
    }

    /// EXTERNAL: the kernel tells the bus who we are; the user's number stands in hexadecimal digits
    /// of its decimal ones.
    fn authenticate(&mut self) -> std::io::Result<()> {
        let user = rustix::process::geteuid().as_raw().to_string();
        let digits: String = user.bytes().map(|byte| format!("{byte:02x}")).collect();
        self.send(format!("\0AUTH EXTERNAL {digits}\r\n").as_bytes())?;
        self.patience()?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        if !line.starts_with("OK ") {
            return Err(std::io::Error::other(format!("it does not let us in: {}", line.trim())));
        }
        self.send(b"BEGIN\r\n")
    }

    fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// What is left of the time may be spent on the next read.
    fn patience(&self) -> std::io::Result<()> {
        let left = self.end.saturating_duration_since(Instant::now());
        self.stream.get_ref().set_read_timeout(Some(left.max(Duration::from_millis(1))))
    }

    fn next(&mut self) -> std::io::Result<Message> {
        let wrong = || std::io::Error::from(std::io::ErrorKind::InvalidData);
        self.patience()?;
        let mut fixed = [0; FIXED];
        self.stream.read_exact(&mut fixed)?;
        let mut bytes = fixed.to_vec();
        bytes.resize(FIXED + wire::rest(&fixed).ok_or_else(wrong)?, 0);
        self.stream.read_exact(&mut bytes[FIXED..])?;
        wire::parse(&bytes).ok_or_else(wrong)
    }

    /// Calls and waits for the answer.
    fn call(&mut self, attempt: &Attempt<'_>, call: &Call<'_>, body: &Writer) -> Result<Message> {
        self.serial += 1;
        self.send(&call.message(self.serial, body)).map_err(broken)?;
        loop {
            let message = self.next().map_err(broken)?;
            if let Some((job, result)) = message.job() {
                self.done.push((job.to_owned(), result.to_owned()));
            }
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
        if !self.subscribed {
            let mut rule = Writer::default();
            rule.text(
                "type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'",
            );
            let listen = Call { method: "AddMatch", signature: "s", ..BUS };
            self.call(attempt, &listen, &rule)?;
            // systemd sends signals while somebody is subscribed.
            self.call(attempt, &Call { method: "Subscribe", ..MANAGER }, &Writer::default())?;
            self.subscribed = true;
        }
        let answer = self.call(attempt, call, body)?;
        let job = answer.text().unwrap_or_default().to_owned();
        loop {
            if let Some((_, result)) = self.done.iter().find(|(done, _)| *done == job) {
                return match result.as_str() {
                    "done" | "skipped" => Ok(()),
                    result => Err(attempt.refused(format!("job {result}"), String::new())),
                };
            }
            let message = self.next().map_err(broken)?;
            if let Some((job, result)) = message.job() {
                self.done.push((job.to_owned(), result.to_owned()));
            }
        }
    }
}

fn broken(source: std::io::Error) -> Error {
    Error::Bus { socket: SOCKET.into(), source }
}

impl Attempt<'_> {
    fn refused(&self, name: String, text: String) -> Error {
        Error::Unit { attempted: self.verb, unit: self.unit.to_owned(), name, text }
    }
}
