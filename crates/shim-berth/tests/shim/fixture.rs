//! A pod with a shim of its own, in a mount namespace and a cgroup of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use berth_cgroup::{Cgroup, Cgroups, Extent};
use berth_proto::berth_shim::{ExitRequest, ExitResponse, Options, ReopenLogRequest};
use berth_proto::berth_shim_ttrpc::{FactsClient, StdioClient};
use berth_proto::sandbox_ttrpc::SandboxClient;
use berth_proto::task_v3::*;
use berth_proto::task_v3_ttrpc::TaskClient;
use berth_proto::types::Mount;
use berth_sys::namespace::{self, Namespace};
use berth_sys::spawn::Spawn;
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use serde_json::{Value, json};
use ttrpc::r#async::Client;
use ttrpc::context::Context;

/// The shim under test: the one just built, or another one (the static one, for its memory).
pub(crate) fn shim() -> String {
    let built = env!("CARGO_BIN_EXE_containerd-shim-berth-v1");
    std::env::var("BERTH_TEST_SHIM").unwrap_or_else(|_| built.to_owned())
}

/// Both ways of running a container are tested.
pub(crate) const RUNTIMES: [&str; 2] = ["crun", "runc"];

/// Any wait in these tests; longer than any deadline that a passing test meets.
const PATIENCE: Duration = Duration::from_secs(30);

static SERIAL: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Pod {
    pub(crate) id: String,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) address: String,
    pub(crate) task: TaskClient,
    pub(crate) sandbox: SandboxClient,
    pub(crate) stdio: StdioClient,
    pub(crate) facts: FactsClient,

    pub(crate) cgroup: Cgroup,
    runtime: &'static str,
}

/// A context with a deadline no passing test meets.
pub(crate) fn soon() -> Context {
    ttrpc::context::with_duration(PATIENCE)
}

/// The thread of the test moves to a mount namespace where crun takes this machine's cgroups for
/// plain v1: it refuses a unified hierarchy beside v1.
fn private_mounts() {
    static HYBRID: &str = "/sys/fs/cgroup/unified";
    namespace::unshare(&[Namespace::Mount]).unwrap();
    berth_sys::mounts::set_propagation("/", berth_sys::mounts::Propagation::Private, true).unwrap();
    if Path::new(HYBRID).exists() {
        let flags = berth_sys::mounts::Flags::empty();
        berth_sys::mounts::mount("tmpfs", HYBRID, "tmpfs", flags, "").unwrap();
    }
}

impl Pod {
    /// A pod whose shim runs; its containers are made by `runtime`.
    pub(crate) async fn start(runtime: &'static str) -> Self {
        Self::start_with(runtime, json!({})).await
    }

    /// As `start`, with changes to the sandbox's own spec.
    pub(crate) async fn start_with(runtime: &'static str, change: Value) -> Self {
        let dir = tempfile::Builder::new().prefix("berth-shim-").tempdir().unwrap();
        Self::start_in(dir, runtime, change).await
    }

    /// As `start`, in a directory that exists; a socket `events` in it is where events go.
    pub(crate) async fn start_in(
        dir: tempfile::TempDir,
        runtime: &'static str,
        change: Value,
    ) -> Self {
        private_mounts();
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let id = format!("t{}x{serial}", std::process::id());
        let cgroups = Cgroups::detect().unwrap();
        let cgroup = cgroups.at(&format!("/berth-test-{id}")).unwrap();
        cgroup.child("shim").unwrap().create(Extent::All).unwrap();
        cgroup.child("pod").unwrap().create(Extent::All).unwrap();
        busybox(&dir.path().join("image"));
        let bundle = dir.path().join(&id);
        fs::create_dir(&bundle).unwrap();
        let mut spec = json!({
            "ociVersion": "1.0.2",
            "annotations": {"io.kubernetes.cri.sandbox-id": id},
            "linux": {"cgroupsPath": format!("/berth-test-{id}/pod"), "namespaces": []},
        });
        merge(&mut spec, change);
        fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
        let address = start_shim(&dir, &cgroup, &id, &bundle).unwrap();
        let client = connect(&address).await;
        Self {
            task: TaskClient::new(client.clone()),
            sandbox: SandboxClient::new(client.clone()),
            stdio: StdioClient::new(client.clone()),
            facts: FactsClient::new(client),
            id,
            dir,
            address,

            cgroup,
            runtime,
        }
    }

    /// Runs `start` again, for a container's bundle or the sandbox's; the address it answers.
    pub(crate) fn start_again(&self, id: &str, bundle: &Path) -> Result<String, String> {
        start_shim(&self.dir, &self.cgroup, id, bundle)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(crate) fn bundle(&self, id: &str) -> PathBuf {
        self.dir.path().join(id)
    }

    pub(crate) fn log(&self, id: &str) -> PathBuf {
        self.dir.path().join("logs").join(format!("{id}.log"))
    }

    /// What a container wrote, without the framing: lines of one stream.
    pub(crate) fn lines(&self, id: &str, stream: &str) -> Vec<String> {
        let text = fs::read(self.log(id)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines()
            .filter_map(|line| {
                let mut parts = line.splitn(4, ' ');
                let (_, name, _, text) =
                    (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
                (name == stream).then(|| text.to_owned())
            })
            .collect()
    }

    /// A container that runs this shell script, to be changed before it is created.
    pub(crate) fn container<'a>(&'a self, id: &str, script: &str) -> Container<'a> {
        Container {
            pod: self,
            spec: spec(&self.id, &format!("/berth-test-{}/pod/{id}", self.id), script),
            request: CreateTaskRequest {
                id: id.to_owned(),
                bundle: self.bundle(id).display().to_string(),
                rootfs: vec![Mount {
                    type_: "bind".into(),
                    source: self.dir.path().join("image").display().to_string(),
                    options: vec!["rbind".into(), "rw".into()],
                    ..Default::default()
                }],
                stdout: format!("berth-log://{}", self.log(id).display()),
                options: MessageField::some(self.options()),
                ..Default::default()
            },
        }
    }

    pub(crate) fn options(&self) -> Any {
        let options = Options {
            runtime_binary: self.runtime.into(),
            runtime_root: self.dir.path().join("oci").display().to_string(),
            ..Default::default()
        };
        any("berth.shim.v1.Options", &options)
    }

    pub(crate) async fn wait(&self, id: &str) -> u32 {
        self.wait_exec(id, "").await
    }

    pub(crate) async fn wait_exec(&self, id: &str, exec: &str) -> u32 {
        let request = WaitRequest { id: id.into(), exec_id: exec.into(), ..Default::default() };
        self.task.wait(soon(), &request).await.unwrap().exit_status
    }

    pub(crate) async fn kill(&self, id: &str, exec: &str, signal: u32) -> ttrpc::Result<()> {
        let request =
            KillRequest { id: id.into(), exec_id: exec.into(), signal, ..Default::default() };
        self.task.kill(soon(), &request).await.map(|_| ())
    }

    pub(crate) async fn delete(&self, id: &str, exec: &str) -> ttrpc::Result<u32> {
        let request = DeleteRequest { id: id.into(), exec_id: exec.into(), ..Default::default() };
        self.task.delete(soon(), &request).await.map(|response| response.exit_status)
    }

    pub(crate) async fn state_of(&self, id: &str, exec: &str) -> ttrpc::Result<StateResponse> {
        let request = StateRequest { id: id.into(), exec_id: exec.into(), ..Default::default() };
        self.task.state(soon(), &request).await
    }

    pub(crate) async fn exit_facts(&self, id: &str) -> ttrpc::Result<ExitResponse> {
        self.facts.exit(soon(), &ExitRequest { id: id.into(), ..Default::default() }).await
    }

    pub(crate) async fn reopen_log(&self, id: &str) -> ttrpc::Result<()> {
        let request = ReopenLogRequest { id: id.into(), ..Default::default() };
        self.stdio.reopen_log(soon(), &request).await.map(|_| ())
    }

    /// Adds an exec; `script` runs in a shell.
    pub(crate) async fn exec(&self, id: &str, exec: Exec<'_>) -> ttrpc::Result<()> {
        let process = json!({
            "args": ["/bin/sh", "-c", exec.script],
            "env": ["PATH=/bin"], "cwd": "/", "terminal": exec.terminal,
            "user": {"uid": 0, "gid": 0},
        });
        let spec = Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
            value: process.to_string().into_bytes(),
            ..Default::default()
        };
        let path = |path: &Option<PathBuf>| {
            path.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
        };
        let request = ExecProcessRequest {
            id: id.into(),
            exec_id: exec.id.into(),
            terminal: exec.terminal,
            stdin: path(&exec.stdin),
            stdout: path(&exec.stdout),
            stderr: path(&exec.stderr),
            spec: MessageField::some(spec),
            ..Default::default()
        };
        self.task.exec(soon(), &request).await.map(|_| ())
    }

    pub(crate) async fn start_process(&self, id: &str, exec: &str) -> ttrpc::Result<u32> {
        let request = StartRequest { id: id.into(), exec_id: exec.into(), ..Default::default() };
        self.task.start(soon(), &request).await.map(|response| response.pid)
    }

    /// A fifo of this name.
    pub(crate) fn fifo(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        berth_sys::pipe::make_fifo(&path, 0o600).unwrap();
        path
    }

    /// The pid of the shim.
    pub(crate) async fn shim_pid(&self) -> u32 {
        let request = ConnectRequest::default();
        self.task.connect(soon(), &request).await.unwrap().shim_pid
    }

    /// Pids in the container's cgroup.
    pub(crate) fn processes(&self, id: &str) -> Vec<i32> {
        let cgroup = self.cgroup.child("pod").unwrap().child(id).unwrap();
        cgroup.processes().unwrap().into_iter().map(|pid| pid.as_raw_pid()).collect()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // The shim is in there too. If the test has failed already, that is what to report.
        let remaining = self.cgroup.kill(PATIENCE);
        let removed = self.cgroup.remove(PATIENCE);
        // Otherwise the directory would be removed through them, as far as they let it.
        let _ = berth_sys::mounts::unmount_below(self.dir.path());
        if !std::thread::panicking() {
            assert_eq!(remaining.unwrap(), []);
            removed.unwrap();
        }
    }
}

#[derive(Default)]
pub(crate) struct Exec<'a> {
    pub(crate) id: &'a str,
    pub(crate) script: &'a str,
    pub(crate) terminal: bool,
    pub(crate) stdin: Option<PathBuf>,
    pub(crate) stdout: Option<PathBuf>,
    pub(crate) stderr: Option<PathBuf>,
}

pub(crate) struct Container<'a> {
    pod: &'a Pod,
    pub(crate) spec: Value,
    pub(crate) request: CreateTaskRequest,
}

impl Container<'_> {
    /// Changes the spec.
    pub(crate) fn with(mut self, change: Value) -> Self {
        merge(&mut self.spec, change);
        self
    }

    pub(crate) fn request(mut self, change: impl FnOnce(&mut CreateTaskRequest)) -> Self {
        change(&mut self.request);
        self
    }

    pub(crate) fn write_bundle(&self) {
        let bundle = PathBuf::from(&self.request.bundle);
        fs::create_dir_all(bundle.join("rootfs")).unwrap();
        fs::write(bundle.join("config.json"), self.spec.to_string()).unwrap();
    }

    pub(crate) async fn create(&self) -> ttrpc::Result<u32> {
        self.write_bundle();
        self.pod.task.create(soon(), &self.request).await.map(|response| response.pid)
    }

    /// Creates and starts it.
    pub(crate) async fn run(self) -> u32 {
        self.create().await.unwrap();
        self.pod.start_process(&self.request.id, "").await.unwrap()
    }
}

pub(crate) async fn connect(address: &str) -> Client {
    Client::connect(address).await.unwrap()
}

pub(crate) fn any(name: &str, message: &impl Message) -> Any {
    Any {
        type_url: name.to_owned(),
        value: message.write_to_bytes().unwrap(),
        ..Default::default()
    }
}

/// The code of a refused call.
pub(crate) fn code<T: std::fmt::Debug>(result: ttrpc::Result<T>) -> ttrpc::Code {
    match result.unwrap_err() {
        ttrpc::Error::RpcStatus(status) => status.code(),
        other => panic!("not a refusal: {other}"),
    }
}

/// Waits for something to become true that no event tells of.
pub(crate) async fn until<T>(what: &str, mut test: impl FnMut() -> Option<T>) -> T {
    let end = std::time::Instant::now() + PATIENCE;
    loop {
        if let Some(value) = test() {
            return value;
        }
        assert!(std::time::Instant::now() < end, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn events_address(state: &Path) -> String {
    let socket = state.with_file_name("events");
    if socket.exists() { socket.display().to_string() } else { String::new() }
}

/// Runs a command of the shim to its end, in the shim's cgroup; its output.
pub(crate) fn shim_command(
    state: &Path,
    cgroup: &Cgroup,
    bundle: &Path,
    arguments: &[&str],
) -> Result<Vec<u8>, String> {
    let out = tempfile::NamedTempFile::new().unwrap();
    let err = tempfile::NamedTempFile::new().unwrap();
    let path = std::env::var("PATH").unwrap();
    let stand_ins = state.join("bin");
    let mut child = Spawn::new(shim())
        .args(["-namespace", "test", "-address", "", "-publish-binary", "/bin/true"])
        .args(arguments)
        .env("PATH", format!("{}:{path}", stand_ins.display()))
        .env("BERTH_SHIM_STATE", state)
        .env("TTRPC_ADDRESS", events_address(state))
        .env("MAX_SHIM_VERSION", "3")
        .cwd(bundle)
        .cgroups(cgroup.child("shim").unwrap().enter_files())
        .stdout(out.reopen().unwrap())
        .stderr(err.reopen().unwrap())
        .spawn()
        .unwrap();
    let exit = child.wait(PATIENCE).unwrap().expect("the shim's command ends");
    if exit.success() {
        return Ok(fs::read(out.path()).unwrap());
    }
    Err(fs::read_to_string(err.path()).unwrap())
}

fn start_shim(
    dir: &tempfile::TempDir,
    cgroup: &Cgroup,
    id: &str,
    bundle: &Path,
) -> Result<String, String> {
    let state = dir.path().join("state");
    fs::create_dir_all(state.join("bin")).unwrap();
    let answer = shim_command(&state, cgroup, bundle, &["-id", id, "start"])?;
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!((&answer["version"], &answer["protocol"]), (&json!(3), &json!("ttrpc")));
    Ok(answer["address"].as_str().unwrap().to_owned())
}

/// A root file system of nothing but busybox.
fn busybox(root: &Path) {
    for dir in ["bin", "proc", "dev", "sys", "tmp"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox"))
        .expect("busybox-static is installed: apt-get install busybox-static");
    for applet in [
        "sh", "sleep", "cat", "echo", "kill", "true", "false", "seq", "setsid", "stty", "dd",
        "tail", "trap", "head", "ls", "test", "printf", "mkfifo", "touch", "rm", "tr", "id",
    ] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
}

fn spec(pod: &str, cgroup: &str, script: &str) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "annotations": {
            "io.kubernetes.cri.sandbox-id": pod,
            "io.kubernetes.cri.container-type": "container",
        },
        "root": {"path": "rootfs"},
        "process": {
            "args": ["/bin/sh", "-c", script],
            "env": ["PATH=/bin"], "cwd": "/",
            "user": {"uid": 0, "gid": 0},
            "capabilities": {
                "bounding": ["CAP_KILL", "CAP_SYS_ADMIN"],
                "effective": ["CAP_KILL", "CAP_SYS_ADMIN"],
                "permitted": ["CAP_KILL", "CAP_SYS_ADMIN"],
            },
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}],
            "resources": {},
        },
    })
}

/// Objects are merged, everything else is replaced.
fn merge(into: &mut Value, change: Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (key, value) in change {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, change) => *into = change,
    }
}

/// Reads a fifo to its end, in the background.
pub(crate) fn reader(path: PathBuf) -> tokio::task::JoinHandle<Vec<u8>> {
    let fd = berth_sys::pipe::open_fifo(&path, berth_sys::pipe::FifoEnd::Read).unwrap();
    let (opened, keep) =
        (tokio::net::unix::pipe::Receiver::from_owned_fd(fd).unwrap(), Arc::new(path));
    tokio::spawn(async move {
        let _path = keep;
        let mut all = Vec::new();
        let mut seen_writer = false;
        loop {
            let mut space = [0; 4096];
            opened.readable().await.unwrap();
            match opened.try_read(&mut space) {
                // No writer has been there yet, or the last one has gone.
                Ok(0) if seen_writer => return all,
                Ok(0) => tokio::time::sleep(Duration::from_millis(2)).await,
                Ok(count) => {
                    seen_writer = true;
                    all.extend_from_slice(&space[..count]);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => seen_writer = true,
                Err(error) => panic!("{error}"),
            }
        }
    })
}
