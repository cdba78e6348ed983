//! Driving an OCI runtime by its command line.
//!
//! Whether a container exists is decided from the runtime's root directory and never from what it
//! prints: the text differs between runtimes and versions.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use berth_sys::Pid;
use berth_sys::spawn::Spawn;
use serde::{Deserialize, Serialize};

use crate::command::{self, Answer, Said, memory_holding, tail_of};
use crate::error::{Error, Result};
use crate::flavour::{Flavour, Network};
use crate::guest;
use crate::reaper::{Reaper, Watched};

/// Creating may have to wait for a slow disk or a busy node.
const CREATE: Duration = Duration::from_secs(60);
/// Everything else is a matter of milliseconds.
pub(crate) const OTHER: Duration = Duration::from_secs(20);
/// What a runtime writes of a container is less than this, in bytes and in files.
const ROOM: u64 = 16 * 1024;
const FILES: u64 = 4;
/// More of a runtime's log than this is of no interest.
const LOG: u64 = 64 * 1024;

/// Which runtime to drive and how. Saved in the bundle for `delete` after the shim's death.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeOptions {
    /// Its path.
    pub binary: PathBuf,
    /// Its state directory.
    pub root: PathBuf,
    /// Whether cgroups are made by systemd.
    #[serde(default)]
    pub systemd_cgroup: bool,
}

/// Where runtimes are looked for when none is named.
const KNOWN: [&str; 2] = ["crun", "runc"];

/// Where runtimes keep their state if nobody says otherwise: `<state>/oci/<runtime>@<namespace>`.
/// Two namespaces of a daemon may each have a container of the same id.
#[derive(Clone, Debug)]
pub struct Roots {
    dir: PathBuf,
    namespace: String,
}

impl Roots {
    /// Those of a namespace, below the shims' state directory. None: `<state>/oci/<runtime>`.
    pub fn new(state: &Path, namespace: &str) -> Self {
        Self { dir: state.join("oci"), namespace: namespace.to_owned() }
    }

    fn of(&self, runtime: &OsStr) -> PathBuf {
        let mut name = runtime.to_owned();
        if !self.namespace.is_empty() {
            name.push("@");
            name.push(&self.namespace);
        }
        self.dir.join(name)
    }

    /// The runtimes, by their names, that have a root here.
    pub(crate) fn runtimes(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let name = |entry: std::fs::DirEntry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            match self.namespace.as_str() {
                "" => Some(name),
                namespace => name.strip_suffix(namespace)?.strip_suffix('@').map(str::to_owned),
            }
        };
        entries.filter_map(name).collect()
    }
}

impl RuntimeOptions {
    /// Fills in what a caller left empty: the first known runtime on PATH, and a root of our own.
    pub fn resolve(binary: &str, root: &str, systemd_cgroup: bool, roots: &Roots) -> Result<Self> {
        let binary = if binary.is_empty() {
            KNOWN.iter().find_map(|name| on_path(name)).ok_or_else(|| {
                Error::Invalid(format!("no OCI runtime on PATH: install one of {KNOWN:?}"))
            })?
        } else if binary.contains('/') {
            PathBuf::from(binary)
        } else {
            on_path(binary)
                .ok_or_else(|| Error::Invalid(format!("OCI runtime {binary:?} is not on PATH")))?
        };
        // Two runtimes must not share a root: their state files differ.
        let name = binary.file_name().unwrap_or(binary.as_os_str());
        let root = if root.is_empty() { roots.of(name) } else { PathBuf::from(root) };
        Ok(Self { binary, root, systemd_cgroup })
    }
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// The standard streams that a container or exec starts with; `None` is /dev/null.
pub(crate) type Streams = [Option<OwnedFd>; 3];

/// A runtime that can be told what to do.
#[derive(Debug)]
pub(crate) struct Runtime {
    options: RuntimeOptions,
    flavour: Flavour,
    network: Network,
    reaper: Arc<Reaper>,
    calls: AtomicU64,
}

/// One call: the subcommand, its container, and where its messages go.
pub(crate) struct Call<'a> {
    pub(crate) verb: &'static str,
    pub(crate) id: &'a str,
    pub(crate) bundle: &'a Path,
    pub(crate) limit: Duration,
}

/// What `exec` needs to know.
pub(crate) struct ExecCall<'a> {
    pub(crate) id: &'a str,
    pub(crate) bundle: &'a Path,
    /// The JSON of the process.
    pub(crate) process: &'a Path,
    pub(crate) pid_file: &'a Path,
    pub(crate) console: Option<&'a Path>,
    /// `--cgroup`, in the form this runtime takes.
    pub(crate) cgroup: Option<String>,
    /// Where the pid in the guest's kernel is to be written, if there is such a kernel.
    pub(crate) guest_pid_file: Option<&'a Path>,
}

impl Runtime {
    pub(crate) fn new(
        options: RuntimeOptions,
        flavour: Flavour,
        network: Network,
        reaper: Arc<Reaper>,
    ) -> Self {
        Self { options, flavour, network, reaper, calls: AtomicU64::new(0) }
    }

    pub(crate) fn options(&self) -> &RuntimeOptions {
        &self.options
    }

    /// Whether the runtime keeps a state of this container.
    pub(crate) fn knows(&self, id: &str) -> bool {
        !self.flavour.state_of(&self.options.root, id).is_empty()
    }

    /// Which one this is.
    pub(crate) fn flavour(&self) -> Flavour {
        self.flavour
    }

    pub(crate) async fn create(
        &self,
        id: &str,
        bundle: &Path,
        console: Option<&Path>,
        streams: Streams,
    ) -> Result<Watched> {
        let call = Call { verb: "create", id, bundle, limit: CREATE };
        self.make(&call, Vec::new(), console, streams).await
    }

    /// A call that makes a container: its init.
    pub(crate) async fn make(
        &self,
        call: &Call<'_>,
        mut args: Vec<PathBuf>,
        console: Option<&Path>,
        streams: Streams,
    ) -> Result<Watched> {
        let pid_file = call.bundle.join("init.pid");
        let _ = std::fs::remove_file(&pid_file);
        args.extend(["--bundle".into(), call.bundle.into()]);
        args.extend(["--pid-file".into(), pid_file.clone()]);
        if let Some(console) = console {
            args.extend(["--console-socket".into(), console.to_owned()]);
        }
        args.push(call.id.into());
        let handover = self.reaper.handover();
        self.call(call, args, Io::Process(streams)).await?;
        let init = self.adopt(call, &pid_file);
        drop(handover);
        init
    }

    /// Makes a container that will have no process of its own.
    pub(crate) async fn create_guest(
        &self,
        id: &str,
        bundle: &Path,
        console: Option<&Path>,
    ) -> Result<()> {
        let call = Call { verb: "create", id, bundle, limit: CREATE };
        let mut args = vec!["--bundle".into(), bundle.into()];
        if let Some(console) = console {
            args.extend(["--console-socket".into(), console.to_owned()]);
        }
        args.push(id.into());
        self.call(&call, args, Io::Own(None)).await
    }

    /// Takes over the process whose pid a call has left in a file.
    fn adopt(&self, call: &Call<'_>, pid_file: &Path) -> Result<Watched> {
        let text = tail_of(pid_file, 64);
        let _ = std::fs::remove_file(pid_file);
        let text = String::from_utf8_lossy(&text);
        let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) else {
            let message = format!("it succeeded, and its pid file says {:?}", text.trim());
            return Err(self.failed(call, message));
        };
        Watched::adopt(&self.reaper, pid)?.map_err(|problem| Error::Foreign {
            runtime: self.options.binary.display().to_string(),
            verb: call.verb,
            id: call.id.to_owned(),
            pid: pid.as_raw_pid(),
            problem,
        })
    }

    pub(crate) async fn start(&self, id: &str, bundle: &Path) -> Result<()> {
        let call = Call { verb: "start", id, bundle, limit: CREATE };
        self.call(&call, vec![id.into()], Io::Own(None)).await
    }

    /// Starts a container that gets its streams only now.
    pub(crate) async fn start_guest(
        &self,
        id: &str,
        bundle: &Path,
        streams: Streams,
    ) -> Result<()> {
        let call = Call { verb: "start", id, bundle, limit: CREATE };
        self.call(&call, vec![id.into()], Io::Process(streams)).await
    }

    /// A call that is answered by what it prints.
    pub(crate) async fn ask(&self, call: &Call<'_>, args: Vec<PathBuf>) -> Result<Vec<u8>> {
        let (answer, stdout) = Answer::new()?;
        self.call(call, args, Io::Process([None, Some(stdout), None])).await?;
        answer.read()
    }

    pub(crate) async fn exec(&self, exec: ExecCall<'_>, streams: Streams) -> Result<Watched> {
        let call = Call { verb: "exec", id: exec.id, bundle: exec.bundle, limit: CREATE };
        let _ = std::fs::remove_file(exec.pid_file);
        let mut args: Vec<PathBuf> = vec!["--detach".into()];
        args.extend(["--process".into(), exec.process.to_owned()]);
        args.extend(["--pid-file".into(), exec.pid_file.to_owned()]);
        if let Some(console) = exec.console {
            args.extend(["--console-socket".into(), console.to_owned()]);
        }
        if let Some(file) = exec.guest_pid_file {
            args.extend(["--internal-pid-file".into(), file.to_owned()]);
        }
        if let Some(cgroup) = exec.cgroup {
            args.extend(["--cgroup".into(), cgroup.into()]);
        }
        args.push(exec.id.into());
        let handover = self.reaper.handover();
        self.call(&call, args, Io::Process(streams)).await?;
        let process = self.adopt(&call, exec.pid_file);
        drop(handover);
        process
    }

    /// Removes the container, whatever its state; absent is fine.
    pub(crate) async fn delete(&self, id: &str, bundle: &Path) -> Result<()> {
        if !self.knows(id) {
            return Ok(());
        }
        let call = Call { verb: "delete", id, bundle, limit: CREATE };
        let done = self.call(&call, vec!["--force".into(), id.into()], Io::Own(None)).await;
        if done.is_err() && self.flavour.has_guests() {
            self.forget_dead(id);
        }
        for file in self.flavour.left_of(&self.options.root, id) {
            // Still there, it is met again at the next end of a sandbox of this name.
            let _ = std::fs::remove_file(file);
        }
        if self.knows(id) { done } else { Ok(()) }
    }

    /// runsc cannot delete a container whose sandbox is dead and not reaped: there is nothing left
    /// of it but the files.
    fn forget_dead(&self, id: &str) {
        let files = self.flavour.state_of(&self.options.root, id);
        if files.iter().filter_map(|file| guest::sandbox_pid(file)).any(guest::is_alive) {
            return;
        }
        for file in files {
            // Still there, it is met again by the next try.
            let _ = std::fs::remove_file(file);
        }
    }

    pub(crate) async fn pause(&self, id: &str, bundle: &Path) -> Result<()> {
        let call = Call { verb: "pause", id, bundle, limit: OTHER };
        self.call(&call, vec![id.into()], Io::Own(None)).await
    }

    pub(crate) async fn resume(&self, id: &str, bundle: &Path) -> Result<()> {
        let call = Call { verb: "resume", id, bundle, limit: OTHER };
        self.call(&call, vec![id.into()], Io::Own(None)).await
    }

    /// Applies resources, given as the JSON of the OCI spec's `linux.resources`.
    pub(crate) async fn update(&self, id: &str, bundle: &Path, resources: &[u8]) -> Result<()> {
        let call = Call { verb: "update", id, bundle, limit: OTHER };
        let args = vec!["--resources".into(), "-".into(), id.into()];
        self.call(&call, args, Io::Own(Some(memory_holding(resources)?))).await
    }

    pub(crate) async fn call(&self, call: &Call<'_>, args: Vec<PathBuf>, io: Io) -> Result<()> {
        let serial = self.calls.fetch_add(1, Ordering::Relaxed);
        let log = call.bundle.join(format!("runtime-{serial}.json"));
        let program = self.program(call, &log).args(args);
        let (program, mut said) = io.give_to(program)?;
        let log = Scratch(log);
        let run = command::run(&self.reaper, program, call.limit);
        let outcome = match &mut said {
            Some(said) => said.during(run).await,
            None => run.await,
        };
        let outcome = match outcome {
            Err(Error::Kernel(source @ berth_sys::Error::Spawn { .. })) => {
                let (verb, id) = (call.verb, call.id.to_owned());
                return Err(Error::NoRuntime { verb, id, source });
            }
            outcome => outcome?,
        };
        match outcome {
            Some(0) => Ok(()),
            None => {
                let (what, id, limit) = (call.verb, call.id.to_owned(), call.limit);
                Err(Error::TimedOut { what, id, limit })
            }
            Some(code) => {
                let message = last_error(&log.0)
                    .or_else(|| said.and_then(Said::last_line))
                    .unwrap_or_else(|| format!("exit code {code}"));
                Err(self.failed(call, message))
            }
        }
    }

    /// The error of a call that failed with this message: runtimes have no codes that would tell a
    /// full disk from anything else, the disks themselves do.
    fn failed(&self, call: &Call<'_>, message: String) -> Error {
        let runtime = self.options.binary.display().to_string();
        let (verb, id) = (call.verb, call.id.to_owned());
        let rootfs = call.bundle.join("rootfs");
        let written = [self.options.root.as_path(), call.bundle, &rootfs];
        match written.into_iter().find(|dir| has_no_room(dir)) {
            Some(full) => Error::NoRoom { runtime, verb, id, message, full: full.to_owned() },
            None => Error::Runtime { runtime, verb, id, message },
        }
    }

    fn program(&self, call: &Call<'_>, log: &Path) -> Spawn {
        let mut program = self
            .flavour
            .program(&self.options.binary, call.verb, self.network)
            .arg("--root")
            .arg(&self.options.root)
            .args(["--log-format", "json", "--log"])
            .arg(log)
            .cwd(call.bundle);
        if let Some(path) = std::env::var_os("PATH") {
            program = program.env("PATH", path);
        }
        if self.options.systemd_cgroup {
            program = program.arg("--systemd-cgroup");
        }
        program.args(self.flavour.flags(self.network)).arg(call.verb)
    }
}

/// Whose standard streams a command gets.
pub(crate) enum Io {
    /// Those of the process that it starts: not ours to read.
    Process(Streams),
    /// Its own: some input, and what it says is kept.
    Own(Option<OwnedFd>),
}

impl Io {
    fn give_to(self, mut program: Spawn) -> Result<(Spawn, Option<Said>)> {
        match self {
            Self::Process([stdin, stdout, stderr]) => {
                if let Some(fd) = stdin {
                    program = program.stdin(fd);
                }
                if let Some(fd) = stdout {
                    program = program.stdout(fd);
                }
                if let Some(fd) = stderr {
                    program = program.stderr(fd);
                }
                Ok((program, None))
            }
            Self::Own(stdin) => {
                if let Some(fd) = stdin {
                    program = program.stdin(fd);
                }
                let (said, stderr) = Said::new()?;
                Ok((program.stderr(stderr), Some(said)))
            }
        }
    }
}

/// A file that is gone when its use is over.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Whether a file system has next to nothing left. An overlay answers for its writable layer.
fn has_no_room(dir: &Path) -> bool {
    let figures = berth_sys::disk::file_system(dir);
    figures.is_ok_and(|f| {
        (f.total > 0 && f.available < ROOM) || (f.inodes > 0 && f.inodes_free < FILES)
    })
}

/// The message of the last error in a runtime's JSON log.
fn last_error(log: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        #[serde(default)]
        level: String,
        msg: String,
    }
    let text = tail_of(log, LOG);
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<Line> = text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    let error = lines.iter().rfind(|line| matches!(line.level.as_str(), "error" | "fatal"));
    error.or(lines.last()).map(|line| line.msg.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_a_log_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        assert_eq!(last_error(&log), None);
        std::fs::write(
            &log,
            "{\"level\":\"error\",\"msg\":\"first\"}\n\
             {\"level\":\"error\",\"msg\":\"exec: \\\"nope\\\": not found\",\"time\":\"x\"}\n\
             {\"level\":\"warning\",\"msg\":\"by the way\"}\nnot json\n",
        )
        .unwrap();
        assert_eq!(last_error(&log).unwrap(), "exec: \"nope\": not found");
        std::fs::write(&log, "{\"msg\":\"crun has no levels\"}\n").unwrap();
        assert_eq!(last_error(&log).unwrap(), "crun has no levels");
    }

    #[test]
    fn each_runtime_gets_a_root_of_its_own() {
        let state = &Roots::new(Path::new("/run/berth"), "");
        let crun = RuntimeOptions::resolve("/opt/crun", "", false, state).unwrap();
        assert_eq!(crun.root, Path::new("/run/berth/oci/crun"));
        let other = Roots::new(Path::new("/run/berth"), "moby");
        let crun = RuntimeOptions::resolve("/opt/crun", "", false, &other).unwrap();
        assert_eq!(crun.root, Path::new("/run/berth/oci/crun@moby"));
        let named = RuntimeOptions::resolve("/opt/crun", "/r", true, state).unwrap();
        assert_eq!((named.root.as_path(), named.systemd_cgroup), (Path::new("/r"), true));
        let error = RuntimeOptions::resolve("no-such-runtime", "", false, state).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Invalid);
    }
}
