//! Running a shim's executable: `start`, which leaves the shim running, and `delete`, which cleans
//! up after one that is dead or never answered.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_job::Job;
use berth_proto::bootstrap::{BootstrapParams, Extension};
use berth_proto::task_v3::DeleteResponse;
use berth_sys::spawn::Spawn;
use protobuf::Message as _;

use crate::decode::decode;
use crate::types::time;
use crate::{Answer, Any, Error, Exited, Result, parse_answer};

/// An answer is never longer than this.
const MAX_ANSWER: u64 = 64 << 10;

/// How much of what a failed shim said goes into the error.
const TAIL: u64 = 2048;

/// How a shim's executable is to be run.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The executable: see [`find_binary`].
    pub binary: PathBuf,
    /// The bundle: the working directory, and where the answer is kept.
    pub bundle: PathBuf,
    /// The sandbox, or the container.
    pub id: String,
    /// The containerd namespace: `k8s.io`.
    pub namespace: String,
    /// Where the shim sends its events (ttrpc); may be empty.
    pub events_address: String,
    /// The daemon's own address; may be empty.
    pub daemon_address: String,
    /// What the shim execs to publish an event when it cannot connect.
    pub publish_binary: PathBuf,
    /// Ask for debug logs.
    pub debug: bool,
    /// What it gets of the environment beside the variables of the contract.
    pub env: Vec<(OsString, OsString)>,
    /// The `tasks` or `cgroup.procs` files of the cgroup that the shim is to live in.
    pub cgroups: Vec<PathBuf>,
    /// Its oom_score_adj; none leaves the daemon's.
    pub oom_score_adj: Option<i16>,
    /// Its options; none tells it nothing.
    pub options: Option<Any>,
    /// What `start` reads on stdin.
    pub form: Form,
    /// How long it may take.
    pub deadline: Duration,
}

/// What `start` reads on stdin. A shim takes only one of these, but for Berth's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Form {
    /// The options alone: shims built for containerd up to 2.2, and those that do not read at all.
    #[default]
    Options,
    /// Bootstrap parameters, with the options in them: shims built for containerd 2.3 and later.
    Parameters,
}

/// What `delete` reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The pid of the process that was cleaned up.
    pub pid: u32,
    /// How it ended, as far as the shim could tell.
    pub exited: Exited,
}

impl Launch {
    /// Where the shim's answer is kept in a bundle.
    #[must_use]
    pub fn answer_file(bundle: &Path) -> PathBuf {
        bundle.join("shim-start.answer")
    }

    /// Removes what `start` left in a bundle, once its answer is saved elsewhere: it lies in memory.
    /// What a shim still writes to goes with the shim.
    pub fn forget_answer(bundle: &Path) {
        for file in [Self::answer_file(bundle), Self::stderr_file(bundle)] {
            // What stays goes with the bundle.
            let _ = fs::remove_file(file);
        }
    }

    fn stderr_file(bundle: &Path) -> PathBuf {
        bundle.join("shim-start.stderr")
    }

    /// The answer of an earlier `start` in this bundle; none if there was no `start`.
    ///
    /// # Errors
    /// The file cannot be read, or holds no (whole) answer.
    pub fn earlier_answer(bundle: &Path) -> Result<Option<Answer>> {
        let path = Self::answer_file(bundle);
        match File::open(&path) {
            Ok(file) => read_answer(file, &path).map(Some),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(bundle_error("open", &path, e)),
        }
    }

    /// `start`: returns where the shim listens. Its stdout goes into the bundle, where the answer
    /// outlives this daemon; so does its stderr, which the shim may keep.
    ///
    /// # Errors
    /// It fails, takes too long, or its answer makes no sense. What it left is for the caller to
    /// kill (the cgroup) and to clean up ([`Launch::delete`]).
    pub async fn start(&self) -> Result<Answer> {
        let answer_path = Self::answer_file(&self.bundle);
        let stderr_path = Self::stderr_file(&self.bundle);
        let answer_file = create(&answer_path)?;
        let stderr_file = create(&stderr_path)?;
        let spawn = self.spawn("start", &[]);
        let job = Job::new(spawn, self.deadline)
            .stdin(self.stdin()?)
            .stdout_to(clone(&answer_file, &answer_path)?)
            .stderr_to(clone(&stderr_file, &stderr_path)?)
            .leave_running();
        let outcome = job.run().await.map_err(|source| self.not_run("start", source))?;
        if !outcome.exit.success() {
            // Go shims say what is wrong on stdout.
            let said = [stderr_file, answer_file].map(tail).into_iter().find(|t| !t.is_empty());
            return Err(Error::Failed {
                binary: self.binary.clone(),
                action: "start",
                how: outcome.exit,
                said: said.unwrap_or_else(|| "it said nothing".to_owned()),
            });
        }
        read_answer(answer_file, &answer_path)
    }

    /// `delete`: the shim is dead; its executable kills and unmounts what it left.
    ///
    /// # Errors
    /// It fails, takes too long, or its answer makes no sense.
    pub async fn delete(&self) -> Result<Outcome> {
        let bundle = ["-bundle".as_ref(), self.bundle.as_os_str()];
        let job = Job::new(self.spawn("delete", &bundle), self.deadline).stdin(Vec::new());
        let outcome = job.run().await.map_err(|source| self.not_run("delete", source))?;
        if !outcome.exit.success() {
            let said = [&outcome.stderr, &outcome.stdout]
                .map(|bytes| String::from_utf8_lossy(bytes).trim().to_owned())
                .into_iter()
                .find(|text| !text.is_empty());
            return Err(Error::Failed {
                binary: self.binary.clone(),
                action: "delete",
                how: outcome.exit,
                said: said.unwrap_or_else(|| "it said nothing".to_owned()),
            });
        }
        let response = decode::<DeleteResponse>(&outcome.stdout)
            .map_err(|e| Error::Answer { problem: format!("to delete: {e}") })?;
        let at = time(response.exited_at.as_ref());
        Ok(Outcome { pid: response.pid, exited: Exited { status: response.exit_status, at } })
    }

    /// What `start` reads, in the form that this shim takes.
    fn stdin(&self) -> Result<Vec<u8>> {
        let options = self.options.clone().map(Any::into_wire);
        let encoded = match self.form {
            Form::Options => options.map_or(Ok(Vec::new()), |options| options.write_to_bytes()),
            Form::Parameters => {
                let extension =
                    |options| Extension { value: Some(options).into(), ..Extension::default() };
                BootstrapParams {
                    instance_id: self.id.clone(),
                    namespace: self.namespace.clone(),
                    containerd_version: env!("CARGO_PKG_VERSION").to_owned(),
                    containerd_ttrpc_address: self.events_address.clone(),
                    containerd_grpc_address: self.events_or_daemon(),
                    containerd_binary: self.publish_binary.to_string_lossy().into_owned(),
                    extensions: options.into_iter().map(extension).collect(),
                    ..BootstrapParams::default()
                }
                .write_to_bytes()
            }
        };
        encoded.map_err(|e| Error::Request {
            call: "start",
            id: self.id.clone(),
            why: format!("its options: {e}"),
        })
    }

    fn spawn(&self, action: &'static str, more: &[&OsStr]) -> Spawn {
        let mut spawn = Spawn::new(&self.binary)
            .args(["-namespace", &self.namespace, "-address", &self.events_or_daemon()])
            .arg("-publish-binary")
            .arg(&self.publish_binary)
            .args(["-id", &self.id])
            .args(more)
            .args(self.debug.then_some("-debug"))
            .arg(action)
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .envs(self.contract_env())
            .cwd(&self.bundle)
            .cgroups(&self.cgroups);
        if let Some(adjustment) = self.oom_score_adj {
            spawn = spawn.oom_score_adj(adjustment);
        }
        spawn
    }

    /// `-address` is the daemon's own by contract; shims that have only this one flag to publish
    /// through take events there too.
    fn events_or_daemon(&self) -> String {
        let own = &self.daemon_address;
        if own.is_empty() { self.events_address.clone() } else { own.clone() }
    }

    fn contract_env(&self) -> [(&'static str, &str); 5] {
        [
            ("TTRPC_ADDRESS", &self.events_address),
            ("GRPC_ADDRESS", &self.daemon_address),
            ("NAMESPACE", &self.namespace),
            ("MAX_SHIM_VERSION", "2"),
            ("GOMAXPROCS", "2"),
        ]
    }

    fn not_run(&self, action: &'static str, source: berth_job::Error) -> Error {
        Error::Run { binary: self.binary.clone(), action, source: Box::new(source) }
    }
}

/// The executable of a runtime type: `io.containerd.X.vN` is `containerd-shim-X-vN` in one of
/// `dirs`; an absolute path is itself.
///
/// # Errors
/// The type has neither form, or there is no such executable.
pub fn find_binary(runtime: &str, dirs: &[PathBuf]) -> Result<PathBuf> {
    let wrong = |problem| Error::RuntimeType { runtime: runtime.to_owned(), problem };
    if runtime.starts_with('/') {
        let path = PathBuf::from(runtime);
        let missing =
            || Error::Missing { binary: runtime.to_owned(), searched: runtime.to_owned() };
        return executable(&path).then_some(path).ok_or_else(missing);
    }
    // Only the last two parts count: `io.containerd.` is a custom, as the contract has it.
    let mut parts = runtime.rsplit('.');
    let (version, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let numbered = version.strip_prefix('v').is_some_and(|n| n.parse::<u32>().is_ok());
    if !numbered || name.is_empty() || parts.next().is_none() || runtime.contains('/') {
        return Err(wrong("neither io.containerd.NAME.vN nor an absolute path"));
    }
    let binary = format!("containerd-shim-{name}-{version}");
    let found = dirs.iter().map(|dir| dir.join(&binary)).find(|path| executable(path));
    found.ok_or_else(|| {
        let dirs: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
        Error::Missing { binary, searched: dirs.join(", ") }
    })
}

fn executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// A new file, so that nothing of an earlier `start` can be taken for this one's answer.
fn create(path: &Path) -> Result<File> {
    if let Err(e) = fs::remove_file(path)
        && e.kind() != io::ErrorKind::NotFound
    {
        return Err(bundle_error("remove", path, e));
    }
    let mut options = fs::OpenOptions::new();
    let file = options.read(true).append(true).create_new(true).mode(0o600).open(path);
    file.map_err(|e| bundle_error("create", path, e))
}

fn clone(file: &File, path: &Path) -> Result<File> {
    file.try_clone().map_err(|e| bundle_error("duplicate", path, e))
}

fn read_answer(mut file: File, path: &Path) -> Result<Answer> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))
        .and_then(|_| file.take(MAX_ANSWER).read_to_end(&mut bytes))
        .map_err(|e| bundle_error("read", path, e))?;
    parse_answer(&bytes)
}

/// The end of a file, for a message; nothing if it cannot be read.
fn tail(mut file: File) -> String {
    let mut bytes = Vec::new();
    let length = file.metadata().map_or(0, |meta| meta.len());
    let from = SeekFrom::Start(length.saturating_sub(TAIL));
    let read = file.seek(from).and_then(|_| file.take(TAIL).read_to_end(&mut bytes));
    // What was read before an error is as good as the whole.
    drop(read);
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

fn bundle_error(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Bundle { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    fn dir_with(name: &str, mode: u32) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        dir
    }

    #[test]
    fn a_runtime_type_names_its_executable() {
        let dir = dir_with("containerd-shim-runsc-v1", 0o755);
        let dirs = [PathBuf::from("/nonexistent"), dir.path().to_owned()];
        let wanted = dir.path().join("containerd-shim-runsc-v1");
        assert_eq!(find_binary("io.containerd.runsc.v1", &dirs).unwrap(), wanted);
        let absolute = wanted.to_str().unwrap();
        assert_eq!(find_binary(absolute, &[]).unwrap(), wanted);
    }

    #[test]
    fn what_names_none_is_refused() {
        let dir = dir_with("containerd-shim-plain-v1", 0o644);
        let dirs = [dir.path().to_owned()];
        for runtime in ["", "runc", "runc.v2", "io.containerd.runc.2", "a/b.c.v1", "io.x..v1"] {
            let error = find_binary(runtime, &dirs).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{runtime}");
        }
        // Not executable, not there, and a directory.
        for runtime in ["io.containerd.plain.v1", "io.containerd.none.v9", "/tmp"] {
            let error = find_binary(runtime, &dirs).unwrap_err();
            assert_eq!(error.kind(), Kind::Unavailable, "{runtime}");
        }
    }
}
