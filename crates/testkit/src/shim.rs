//! A stand-in shim: it runs a real one and stands between it and the daemon, unless its directory
//! says how things are to go wrong.
//!
//! | file | first word | then |
//! |---|---|---|
//! | `start` | `exit` | `start` fails and says nothing |
//! | | `garbage` | it answers what makes no sense |
//! | | `hang` | it never answers |
//! | | `leak` | it answers a socket at which nobody listens any more |
//! | a call: `Create` … | `hang` | the call is not answered, does nothing, and is noted in the file `noted` |
//! | | `refuse` | the call fails, does nothing, and is noted there |
//! | | `die-before`, `die-after` | the shim is killed before or after it |
//! | | `close` | the socket is closed, and the shim lives |
//! | `exits` | `never` | no exit is reported: Wait does not return, State says running |
//! | | `twice` | each exit is reported twice |
//!
//! A second word is the id of the sandbox whose shim is meant; without one, all are.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill, raise};
use nix::unistd::Pid;
use prost::Message as _;

/// The word by which `start` runs the process that stands between.
const BETWEEN: &str = "between";

/// containerd.v1.types.Status.RUNNING.
const RUNNING: i32 = 2;

/// google.rpc.Code.FAILED_PRECONDITION.
const FAILED_PRECONDITION: i32 = 9;

/// ttrpc's frame header: length, stream, type, flags.
const HEADER: usize = 10;

/// What counts of ttrpc's Request.
#[derive(Clone, PartialEq, prost::Message)]
struct Request {
    #[prost(string, tag = "2")]
    method: String,
}

/// google.rpc.Status.
#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

/// ttrpc's Response, as far as it is needed.
#[derive(Clone, PartialEq, prost::Message)]
struct Response {
    #[prost(message, tag = "1")]
    status: Option<Status>,
    #[prost(bytes = "vec", tag = "2")]
    payload: Vec<u8>,
}

/// Task's StateResponse, as far as it is needed.
#[derive(Clone, PartialEq, prost::Message)]
struct State {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    bundle: String,
    #[prost(uint32, tag = "3")]
    pid: u32,
    #[prost(int32, tag = "4")]
    status: i32,
}

/// Runs as the shim, `real` being the true one; returns the exit code.
///
/// # Errors
/// If the real shim cannot be run, or a socket not be made.
pub fn run(dir: &Path, real: &Path, arguments: &[String]) -> Result<u8> {
    match arguments {
        [word, id, own, address] if word == BETWEEN => {
            Between::new(dir, real, id, own)?.serve(Path::new(address))
        }
        _ if arguments.last().is_some_and(|action| action == "start") => {
            start(dir, real, arguments)
        }
        _ => {
            let status = Command::new(real).args(arguments).status().context("run the shim")?;
            Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
        }
    }
}

/// What a file of the directory says to the shim of this sandbox.
fn lever(dir: &Path, name: &str, id: &str) -> String {
    let text = fs::read_to_string(dir.join(name)).unwrap_or_default();
    let (word, whose) = text.trim().split_once(' ').unwrap_or((text.trim(), id));
    if whose == id { word.to_owned() } else { String::new() }
}

fn start(dir: &Path, real: &Path, arguments: &[String]) -> Result<u8> {
    let id = arguments.iter().skip_while(|word| *word != "-id").nth(1).context("an id")?;
    let own = dir.join(format!("{}.sock", &id[..16.min(id.len())]));
    match lever(dir, "start", id).as_str() {
        "exit" => return Ok(3),
        "garbage" => {
            return answer(0, b"\xff\x00what is this?");
        }
        "hang" => forever(),
        "leak" => {
            drop(UnixListener::bind(&own).context("a socket to leak")?);
            return answer(0, format!("unix://{}", own.display()).as_bytes());
        }
        _ => {}
    }
    let output = Command::new(real)
        .args(arguments)
        .stdin(Stdio::inherit())
        .stderr(Stdio::inherit())
        .output()
        .context("run the shim")?;
    if !output.status.success() {
        return answer(1, &output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let address = said.strip_prefix("unix://").context("a plain address")?;
    Command::new(std::env::current_exe()?)
        .arg("shim")
        .args([dir, real])
        .args([BETWEEN, id])
        .arg(&own)
        .arg(address)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start the process between")?;
    while UnixStream::connect(&own).is_err() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    answer(0, format!("unix://{}", own.display()).as_bytes())
}

fn answer(code: u8, text: &[u8]) -> Result<u8> {
    std::io::stdout().write_all(text).context("answer")?;
    Ok(code)
}

fn forever() -> ! {
    loop {
        std::thread::park();
    }
}

/// The process between the daemon and the real shim.
struct Between {
    dir: PathBuf,
    real: PathBuf,
    id: String,
    own: PathBuf,
    listener: UnixListener,
}

impl Between {
    fn new(dir: &Path, real: &Path, id: &str, own: &str) -> Result<Self> {
        let listener = UnixListener::bind(own).context("listen between")?;
        let (dir, real) = (dir.to_owned(), real.to_owned());
        Ok(Self { dir, real, id: id.to_owned(), own: own.into(), listener })
    }

    fn serve(self, address: &Path) -> Result<u8> {
        let between = Arc::new(self);
        loop {
            // It fails once the socket has been closed.
            let Ok((client, _)) = between.listener.accept() else { forever() };
            let real = UnixStream::connect(address).context("reach the real shim")?;
            let methods = Arc::new(Mutex::new(HashMap::new()));
            for there in [true, false] {
                let (from, to) = if there { (&client, &real) } else { (&real, &client) };
                let (from, to) = (from.try_clone()?, to.try_clone()?);
                let (between, methods) = (Arc::clone(&between), Arc::clone(&methods));
                std::thread::spawn(move || {
                    let done = match there {
                        true => between.requests(from, &to, &methods),
                        false => between.responses(from, &to, &methods),
                    };
                    // The other side is told that this one has gone.
                    let _ = to.shutdown(Shutdown::Both);
                    done
                });
            }
        }
    }

    fn lever(&self, name: &str) -> String {
        lever(&self.dir, name, &self.id)
    }

    fn requests(&self, mut from: UnixStream, mut to: &UnixStream, methods: &Methods) -> Result<()> {
        while let Some(frame) = read_frame(&mut from)? {
            let method = Request::decode(&frame[HEADER..])?.method;
            let stream = stream_of(&frame);
            match self.lever(&method).as_str() {
                "hang" => {
                    self.note(&method)?;
                    continue;
                }
                "refuse" => {
                    self.refuse(&method, stream, &from)?;
                    continue;
                }
                "die-before" => self.die()?,
                "close" => {
                    fs::remove_file(&self.own)?;
                    rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both)?;
                    return Ok(());
                }
                _ => {}
            }
            if method == "Wait" && self.lever("exits") == "never" {
                continue;
            }
            lock(methods).insert(stream, method);
            to.write_all(&frame)?;
        }
        Ok(())
    }

    fn note(&self, method: &str) -> Result<()> {
        let noted = OpenOptions::new().append(true).create(true).open(self.dir.join("noted"));
        writeln!(noted.context("the noted calls")?, "{method}").context("note a call")
    }

    fn refuse(&self, method: &str, stream: u32, mut to: &UnixStream) -> Result<()> {
        self.note(method)?;
        let status = Status { code: FAILED_PRECONDITION, message: "not now".to_owned() };
        let response = Response { status: Some(status), ..Response::default() };
        let mut head = stream.to_be_bytes().to_vec();
        // A response, without flags. What is as short is written whole: nothing comes between.
        head.extend([2, 0]);
        to.write_all(&framed(&head, &response)?).context("refuse a call")
    }

    fn responses(
        &self,
        mut from: UnixStream,
        mut to: &UnixStream,
        methods: &Methods,
    ) -> Result<()> {
        while let Some(mut frame) = read_frame(&mut from)? {
            let method = lock(methods).remove(&stream_of(&frame)).unwrap_or_default();
            let exits = self.lever("exits");
            if method == "State" && exits == "never" {
                frame = still_running(&frame)?;
            }
            if method == "Wait" && exits == "never" {
                continue;
            }
            to.write_all(&frame)?;
            if method == "Wait" && exits == "twice" {
                to.write_all(&frame)?;
            }
            if self.lever(&method) == "die-after" {
                self.die()?;
            }
        }
        if UnixStream::connect(&self.own).is_ok() && !self.real_lives() {
            let _ = fs::remove_file(&self.own);
            std::process::exit(0);
        }
        Ok(())
    }

    fn real_shims(&self) -> Vec<i32> {
        let name = self.real.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let own = std::process::id().cast_signed();
        let ours = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            let program = line.split('\0').next().unwrap_or_default();
            *pid != own && program.ends_with(&name) && line.contains(&self.id)
        };
        let all = fs::read_dir("/proc").into_iter().flatten().flatten();
        all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(ours).collect()
    }

    fn real_lives(&self) -> bool {
        !self.real_shims().is_empty()
    }

    /// Dies as a shim does that is killed: the real one, and what stands before it.
    fn die(&self) -> Result<()> {
        for pid in self.real_shims() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        raise(Signal::SIGKILL).context("die")
    }
}

/// Which call each stream is.
type Methods = Mutex<HashMap<u32, String>>;

fn lock(methods: &Methods) -> std::sync::MutexGuard<'_, HashMap<u32, String>> {
    methods.lock().unwrap_or_else(PoisonError::into_inner)
}

fn stream_of(frame: &[u8]) -> u32 {
    u32::from_be_bytes([frame[4], frame[5], frame[6], frame[7]])
}

/// A whole frame; none at the end.
fn read_frame(from: &mut UnixStream) -> Result<Option<Vec<u8>>> {
    let mut frame = vec![0; HEADER];
    match from.read_exact(&mut frame) {
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) if e.kind() == ErrorKind::ConnectionReset => return Ok(None),
        other => other?,
    }
    let length = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
    if length > 8 << 20 {
        bail!("a frame of {length} bytes");
    }
    frame.resize(HEADER + length, 0);
    from.read_exact(&mut frame[HEADER..])?;
    Ok(Some(frame))
}

/// The same answer to State, but for what it says.
fn still_running(frame: &[u8]) -> Result<Vec<u8>> {
    let mut response = Response::decode(&frame[HEADER..])?;
    // An error: it does not have the task.
    if response.payload.is_empty() {
        return Ok(frame.to_vec());
    }
    let mut state = State::decode(response.payload.as_slice())?;
    state.status = RUNNING;
    response.payload = state.encode_to_vec();
    framed(&frame[4..HEADER], &response)
}

/// A frame, `head` being what its header says after the length.
fn framed(head: &[u8], response: &Response) -> Result<Vec<u8>> {
    let message = response.encode_to_vec();
    let mut frame = u32::try_from(message.len())?.to_be_bytes().to_vec();
    frame.extend_from_slice(head);
    frame.extend_from_slice(&message);
    Ok(frame)
}
