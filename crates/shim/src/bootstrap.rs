//! `start`: finds the pod's server or starts it, and answers its address.
//!
//! The socket is bound and listened on here, before the server exists, so that the address is good
//! from the first moment; the server inherits it as its stdin, and as its stdout a pipe on which it
//! says that it answers. All containers of a pod get the same address: the
//! pod's name is in the bundle's annotations, and the socket's name is a hash of it, because a unix
//! socket's path ends at 108 bytes.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use berth_process::Config;
use berth_proto::bootstrap::BootstrapResult;
use protobuf::Message;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::arguments::Arguments;
use crate::error::{Error, Result};
use crate::messages;
use crate::runtime::TaskOptions;

/// Where state is kept that outlives no reboot.
const STATE: &str = "/run/berth";
/// How long the server may take to answer.
const READY: Duration = Duration::from_secs(10);
/// More than this on stdin is not for us.
const INPUT: u64 = 1 << 20;
/// The version of the shim API that is answered.
const VERSION: i32 = 3;

/// The server's allocator: one arena, nothing kept at the top, buffers given back when freed. The
/// memory of an idle shim is the price of a pod.
const TUNABLES: &str = "glibc.malloc.arena_max=1:glibc.malloc.top_pad=4096:\
    glibc.malloc.trim_threshold=16384:glibc.malloc.mmap_threshold=32768:\
    glibc.malloc.tcache_count=0";

/// The names of a pod's files in the state directory.
#[derive(Clone, Debug)]
pub(crate) struct Sockets {
    /// The server's own.
    pub(crate) server: PathBuf,
    /// The beginning of the others' paths.
    pub(crate) others: PathBuf,
}

impl Sockets {
    pub(crate) fn of(state: &Path, namespace: &str, pod: &str) -> Self {
        // Stable over time by the standard library's own tests (SipHash with zero keys); if it ever
        // changed, a running shim would only not be found by `start` again.
        let mut hasher = DefaultHasher::new();
        (namespace, pod).hash(&mut hasher);
        let name = format!("{:016x}", hasher.finish());
        let dir = state.join("s");
        Self { server: dir.join(format!("{name}.sock")), others: dir.join(name) }
    }
}

/// The state directory: by argument, by environment, or the usual one.
pub(crate) fn state(arguments: &Arguments) -> PathBuf {
    let named = arguments.state.clone();
    named.or_else(|| std::env::var_os("BERTH_SHIM_STATE").map(Into::into)).unwrap_or(STATE.into())
}

/// The bundle: by argument, or the working directory.
pub(crate) fn bundle(arguments: &Arguments) -> Result<PathBuf> {
    match &arguments.bundle {
        Some(bundle) => std::path::absolute(bundle).map_err(|e| Error::file("find", bundle, e)),
        None => std::env::current_dir().map_err(|e| Error::file("find", "working directory", e)),
    }
}

/// Does what `start` is for; the answer goes to stdout.
pub(crate) fn start(arguments: &Arguments) -> Result<Vec<u8>> {
    let (parameters, options) = read_input(arguments)?;
    let (bundle, state) = (bundle(arguments)?, state(arguments));
    // A sandbox that is no task has no spec in containerd 2.x.
    let config = match bundle.join("config.json").exists() {
        true => Config::read(&bundle)?,
        false => Config::default(),
    };
    let pod = config.group().unwrap_or(&arguments.id);
    let sockets = Sockets::of(&state, &arguments.namespace, pod);
    if UnixStream::connect(&sockets.server).is_err() {
        if pod != arguments.id {
            let address = sockets.server.display().to_string();
            return Err(Error::NoShim { pod: pod.to_owned(), address });
        }
        launch(arguments, &bundle, &state, options, &sockets.server)?;
    }
    let form = Form::of(parameters, std::env::var("MAX_SHIM_VERSION").ok().as_deref());
    let address = format!("unix://{}", sockets.server.display());
    if form == Form::Plain {
        note_address(&bundle, &address)?;
    }
    form.answer(address)
}

fn read_input(arguments: &Arguments) -> Result<(bool, Option<TaskOptions>)> {
    let mut input = Vec::new();
    if !rustix::termios::isatty(std::io::stdin()) {
        std::io::stdin()
            .take(INPUT)
            .read_to_end(&mut input)
            .map_err(|e| Error::file("read", "stdin", e))?;
    }
    Ok(messages::start_input(&input, (&arguments.namespace, &arguments.id))?)
}

fn launch(
    arguments: &Arguments,
    bundle: &Path,
    state: &Path,
    options: Option<TaskOptions>,
    socket: &Path,
) -> Result<()> {
    let listener = listen(socket)?;
    let (readiness, ready) = std::io::pipe().map_err(|e| Error::file("make", "pipe", e))?;
    let program = std::env::current_exe().map_err(|e| Error::file("find", "own program", e))?;
    let said = bundle.join("shim.log");
    let stderr = File::create(&said).map_err(|e| Error::file("make", &said, e))?;
    let mut server = Command::new(&program);
    server
        .args(["-namespace", &arguments.namespace, "-id", &arguments.id])
        .arg("-bundle")
        .arg(bundle)
        .arg("-state")
        .arg(state)
        .current_dir("/")
        .env_clear()
        .env("GLIBC_TUNABLES", TUNABLES)
        .stdin(OwnedFd::from(listener))
        .stdout(ready)
        .stderr(stderr);
    for name in ["PATH", "TTRPC_ADDRESS"] {
        if let Some(value) = std::env::var_os(name) {
            server.env(name, value);
        }
    }
    if let Some(options) = options {
        server.args(["-runtime-binary", &options.binary, "-runtime-root", &options.root]);
        server.arg(format!("-systemd-cgroup={}", options.systemd_cgroup));
    }
    let mut child = server.arg("serve").spawn().map_err(|e| Error::file("run", &program, e))?;
    // The command holds our copies of what the server inherits.
    drop(server);
    if is_ready(readiness)? {
        return Ok(());
    }
    let _ = std::fs::remove_file(socket);
    let _ = child.kill();
    let _ = child.wait();
    let why = std::fs::read_to_string(&said).unwrap_or_default();
    Err(Error::Server(why.lines().last().unwrap_or("it does not answer").to_owned()))
}

fn listen(socket: &Path) -> Result<UnixListener> {
    if let Some(dir) = socket.parent() {
        std::fs::create_dir_all(dir)
            .and_then(|()| std::fs::set_permissions(dir, PermissionsExt::from_mode(0o700)))
            .map_err(|e| Error::file("make", dir, e))?;
    }
    // Nobody answered there: it is a dead server's.
    let _ = std::fs::remove_file(socket);
    UnixListener::bind(socket).map_err(|e| Error::file("listen on", socket, e))
}

/// Whether the server says so in time; its death closes the pipe.
fn is_ready(readiness: impl std::os::fd::AsFd) -> Result<bool> {
    let limit = Timespec { tv_sec: READY.as_secs().cast_signed(), tv_nsec: 0 };
    let mut fds = [PollFd::new(&readiness, PollFlags::IN)];
    let poll = || poll(&mut fds, Some(&limit));
    let changed = rustix::io::retry_on_intr(poll).map_err(|e| Error::file("poll", "pipe", e))?;
    let read = |byte: &mut [u8]| rustix::io::read(&readiness, byte);
    Ok(changed > 0 && read(&mut [0]).is_ok_and(|count| count == 1))
}

/// How a caller reads the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A message, by whoever gave parameters (containerd from 2.3 on). Their `MAX_SHIM_VERSION` is a
    /// constant of old that they do not mean.
    Message,
    /// JSON, with at most this version (containerd 1.7 to 2.2).
    Json(i32),
    /// The address alone, by whoever names no version: containerd up to 1.6 dials what it reads.
    Plain,
}

impl Form {
    fn of(parameters: bool, most: Option<&str>) -> Self {
        match most {
            _ if parameters => Self::Message,
            Some(most) => Self::Json(most.parse().unwrap_or(VERSION)),
            None => Self::Plain,
        }
    }

    fn answer(self, address: String) -> Result<Vec<u8>> {
        let protocol = "ttrpc".to_owned();
        Ok(match self {
            Self::Message => {
                let version = VERSION;
                let result =
                    BootstrapResult { version, address, protocol, ..BootstrapResult::default() };
                result.write_to_bytes()?
            }
            Self::Json(most) => {
                let version = VERSION.min(most);
                let json = serde_json::json!({
                    "version": version, "address": address, "protocol": protocol,
                });
                json.to_string().into_bytes()
            }
            Self::Plain => address.into_bytes(),
        })
    }
}

/// Leaves the address in the bundle: the daemons that take it plain look there after a restart,
/// and do not write it themselves.
fn note_address(bundle: &Path, address: &str) -> Result<()> {
    let (path, new) = (bundle.join("address"), bundle.join(".address"));
    std::fs::write(&new, address).map_err(|e| Error::file("write", &new, e))?;
    std::fs::rename(&new, &path).map_err(|e| Error::file("write", &path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_paths_are_short_and_differ_between_pods_and_namespaces() {
        let state = Path::new("/run/berth");
        let id = "f".repeat(64);
        let one = Sockets::of(state, "k8s.io", &id);
        assert_eq!(one.server, Sockets::of(state, "k8s.io", &id).server);
        assert!(one.others.as_os_str().len() + 20 < 108);
        assert_ne!(one.server, Sockets::of(state, "k8s.io", "other").server);
        assert_ne!(one.server, Sockets::of(state, "moby", &id).server);
    }
}
