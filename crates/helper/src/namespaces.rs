//! A pod's namespaces: made in one go, pinned by bind mounts, alive without any process.
//!
//! ```text
//!  this process (the node's mounts)        child (forked)
//!  remove stale pins
//!  fork ─────────────────────────────────▶ unshare user
//!  write uid_map, gid_map  ◀── "user" ───
//!  ─────────────────────────── go ───────▶ unshare net, ipc, uts; hostname, sysctls, lo up
//!  pin /proc/CHILD/ns/*  ◀──── answer ───
//!  ─────────────────────── end of file ──▶ exit
//! ```
//!
//! The maps are written and the mounts made from outside: the child has no power over either once
//! it is in a user namespace of its own.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_sys::namespace::{self, Furnishing, Namespace};
use berth_sys::spawn::Child;
use berth_sys::{Pid, Signal, fork, thread};
use serde::{Deserialize, Serialize};

use crate::Done;
use crate::error::{Error, Result};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    /// The user namespace to make first; none: that of the node.
    #[serde(default)]
    user: Option<User>,
    /// Which namespaces to make, and where each is pinned.
    pins: Pins,
    #[serde(default)]
    hostname: Option<String>,
    #[serde(default)]
    sysctls: BTreeMap<String, String>,
    /// Whether to bring `lo` up.
    #[serde(default)]
    loopback: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct User {
    uids: Vec<Map>,
    gids: Vec<Map>,
}

/// One line of /proc/PID/uid_map (user_namespaces(7)).
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Map {
    /// The first id inside.
    container_id: u32,
    /// The first id outside.
    host_id: u32,
    /// How many.
    length: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pins {
    #[serde(default)]
    user: Option<PathBuf>,
    #[serde(default)]
    net: Option<PathBuf>,
    #[serde(default)]
    ipc: Option<PathBuf>,
    #[serde(default)]
    uts: Option<PathBuf>,
}

impl Pins {
    fn list(&self) -> Vec<(Namespace, &Path)> {
        let all = [
            (Namespace::User, &self.user),
            (Namespace::Net, &self.net),
            (Namespace::Ipc, &self.ipc),
            (Namespace::Uts, &self.uts),
        ];
        all.into_iter().filter_map(|(kind, pin)| Some((kind, pin.as_deref()?))).collect()
    }
}

/// What was made.
#[derive(Deserialize, Serialize, Default)]
pub(crate) struct Made {
    /// Sysctls that were left out because the user namespace lacks their ids.
    skipped: Vec<String>,
}

/// What the child says: one line of JSON each.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    User,
    Made(Made),
    Failed { kind: String, message: String },
}

pub(crate) fn namespaces(request: Request) -> Result<Made> {
    check(&request)?;
    let pins = request.pins.list();
    for (_, pin) in &pins {
        namespace::unpin(pin)?;
        if let Some(directory) = pin.parent() {
            std::fs::create_dir_all(directory)
                .map_err(|source| Error::io(format!("make {}", directory.display()), source))?;
        }
    }
    let (ours, theirs) =
        UnixStream::pair().map_err(|source| Error::io("make a socket pair", source))?;
    // A fork copies both ends: whoever keeps the other's would never see its end of file.
    let ours = Cell::new(Some(ours));
    let mut child = fork::fork(|| {
        drop(ours.take());
        u8::from(run_child(&theirs, &request).is_err())
    })?;
    drop(theirs);
    let ours = ours.take().expect("only the child, in its copy, takes it before");
    let made = make_and_pin(&ours, child.pid(), &request).inspect_err(|_| {
        for (_, pin) in &pins {
            // The error that led here is the one to report; a later try removes stale pins.
            let _ = namespace::unpin(pin);
        }
    });
    // End of file lets the child go.
    drop(ours);
    end(&mut child);
    made
}

fn check(request: &Request) -> Result<()> {
    let refuse =
        |what, value: &str, reason| Err(Error::Refused { what, value: value.to_owned(), reason });
    for (_, pin) in request.pins.list() {
        if !pin.is_absolute() {
            return refuse("pin", &pin.to_string_lossy(), "must be an absolute path");
        }
    }
    if request.user.is_some() != request.pins.user.is_some() {
        return refuse("user", "", "a user namespace needs both its id maps and its pin");
    }
    if request.hostname.is_some() && request.pins.uts.is_none() {
        return refuse("hostname", "", "without a uts namespace it would be the node's");
    }
    if request.loopback && request.pins.net.is_none() {
        return refuse("loopback", "", "without a net namespace it would be the node's");
    }
    Ok(())
}

fn make_and_pin(socket: &UnixStream, child: Pid, request: &Request) -> Result<Made> {
    let mut lines = BufReader::new(socket).lines();
    let mut hear = || -> Result<Word> {
        let line = lines.next().unwrap_or_else(|| Err(std::io::ErrorKind::UnexpectedEof.into()));
        let line = line.map_err(|source| Error::io("hear from the child", source))?;
        let word = serde_json::from_str(&line);
        word.map_err(|source| Error::Request { reason: source.to_string() })
    };
    loop {
        match hear()? {
            Word::User => {
                if let Some(user) = &request.user {
                    write_map(child, "uid_map", &user.uids)?;
                    write_map(child, "gid_map", &user.gids)?;
                }
                let mut socket = socket;
                socket
                    .write_all(b"go\n")
                    .map_err(|source| Error::io("speak to the child", source))?;
            }
            Word::Made(made) => {
                for (kind, pin) in request.pins.list() {
                    let source = format!("/proc/{}/ns/{}", child.as_raw_pid(), kind.file());
                    namespace::pin(source, pin)?;
                }
                return Ok(made);
            }
            Word::Failed { kind, message } => return Err(Error::Below { kind, message }),
        }
    }
}

/// All lines of a map must come in one write.
fn write_map(child: Pid, name: &str, maps: &[Map]) -> Result<()> {
    let mut text = String::new();
    for map in maps {
        text.push_str(&format!("{} {} {}\n", map.container_id, map.host_id, map.length));
    }
    let path = format!("/proc/{}/{name}", child.as_raw_pid());
    std::fs::write(&path, &text)
        .map_err(|source| Error::io(format!("write {text:?} to {path}"), source))
}

fn end(child: &mut Child) {
    if matches!(child.wait(Duration::from_secs(1)), Ok(Some(_))) {
        return;
    }
    // It does nothing but wait for our end of file: whatever keeps it, it is not needed.
    let _ = child.kill(Signal::KILL);
    let _ = child.wait(Duration::from_secs(5));
}

/// The child's part. What goes wrong is said over the socket.
fn run_child(socket: &UnixStream, request: &Request) -> std::io::Result<()> {
    let mut hear = BufReader::new(socket).lines();
    let mut socket = socket;
    let mut say = |word: &Word| -> std::io::Result<()> {
        let mut line = serde_json::to_string(word)?;
        line.push('\n');
        socket.write_all(line.as_bytes())
    };
    let mut wait_for_maps = || -> Result<()> {
        say(&Word::User).map_err(|source| Error::io("speak to the parent", source))?;
        let heard = hear.next().unwrap_or_else(|| Err(std::io::ErrorKind::UnexpectedEof.into()));
        heard.map(drop).map_err(|source| Error::io("hear from the parent", source))
    };
    match make(request, &mut wait_for_maps) {
        Ok(made) => say(&Word::Made(made))?,
        Err(error) => {
            say(&Word::Failed { kind: error.kind(), message: error.to_string() })?;
        }
    }
    // Stays until the pins are made, or the parent is gone.
    let _ = hear.next();
    Ok(())
}

fn make(request: &Request, wait_for_maps: &mut dyn FnMut() -> Result<()>) -> Result<Made> {
    let kinds: Vec<Namespace> = request.pins.list().into_iter().map(|(kind, _)| kind).collect();
    if request.user.is_some() {
        namespace::unshare(&[Namespace::User])?;
        wait_for_maps()?;
        // The owner of the namespaces is who may write their sysctls.
        thread::become_root()?;
    }
    let furnishing = Furnishing {
        hostname: request.hostname.as_deref(),
        sysctls: &request.sysctls,
        loopback: request.loopback,
    };
    Ok(Made { skipped: namespace::make(&kinds, &furnishing)? })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Unpin {
    pins: Vec<PathBuf>,
}

/// Lets go of pins. Absent is fine; all are tried, and the first failure is the answer.
pub(crate) fn unpin(request: Unpin) -> Result<Done> {
    let mut failed = None;
    for pin in &request.pins {
        if let Err(error) = namespace::unpin(pin) {
            failed.get_or_insert(error);
        }
    }
    failed.map_or(Ok(Done {}), |error| Err(error.into()))
}
