//! The one process of a pod that belongs to no container: PID 1 of a PID namespace that the
//! containers share.
//!
//! A PID namespace lives in the user namespace of its maker and begins with its first process, so
//! it takes a child that enters the pod's user namespace and has a child there:
//!
//! ```text
//!  shim ──▶ this program, `pause` (enters the user namespace and the cgroup, unshares)
//!              └──▶ helper, `pause` (PID 1; handed to the shim when its parent exits)
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use berth_cgroup::{Cgroup, Cgroups, Extent};
use berth_sys::namespace::{self, Furnishing, Namespace};
use berth_sys::spawn::Spawn;
use berth_sys::{Pid, Signal};
use serde::{Deserialize, Serialize};

use crate::command::{self, Said};
use crate::error::{Error, Result};
use crate::process::{Ended, Life, own_program};
use crate::reaper::{Reaper, Watched};
use crate::stdio::Stdio;

/// The argument by which this program knows that it is the one in the middle.
pub const VERB: &str = "pause";
/// How long its start and its death may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Its cgroup below the pod's: on v2 a cgroup with cgroups below it holds no process itself.
const CGROUP: &str = "pause";

/// Where the pause is to live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PauseRequest {
    /// The program that is PID 1, with its `pause` verb.
    pub helper: PathBuf,
    /// The sandbox's bundle: the namespace is pinned there as `pidns`.
    pub bundle: PathBuf,
    /// The pod's user namespace; `None`: ours.
    pub user: Option<PathBuf>,
    /// The pod's cgroup; `None`: ours.
    pub cgroup: Option<String>,
    /// The pod's other namespaces, if they are to be made with it.
    pub own: Option<OwnNamespaces>,
}

/// Namespaces that a pause makes and keeps, for containers that find them by its pid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnNamespaces {
    /// The network namespace that there is; `None`: the node's.
    pub net: Option<PathBuf>,
    /// Whether it gets an IPC namespace of its own.
    pub ipc: bool,
    /// The host name; empty: as the node's.
    pub hostname: String,
    /// Sysctls of these namespaces.
    pub sysctls: BTreeMap<String, String>,
}

impl PauseRequest {
    /// The name of its cgroup: whoever leaves the namespaces to us may put several pods below one
    /// parent, and what is in the cgroup is killed with the pause.
    fn cgroup_name(&self) -> String {
        let sandbox = self.bundle.file_name().filter(|_| self.own.is_some());
        match sandbox {
            Some(sandbox) => format!("{CGROUP}-{}", sandbox.to_string_lossy()),
            None => CGROUP.to_owned(),
        }
    }
}

impl OwnNamespaces {
    /// Moves the calling thread there.
    fn enter(&self) -> Result<()> {
        let mut made = vec![Namespace::Uts];
        made.extend(self.ipc.then_some(Namespace::Ipc));
        let hostname = Some(self.hostname.as_str()).filter(|name| !name.is_empty());
        let none = BTreeMap::new();
        namespace::make(&made, &Furnishing { hostname, sysctls: &none, loopback: false })?;
        if let Some(net) = &self.net {
            namespace::enter(namespace::open(net)?, Namespace::Net)?;
            made.push(Namespace::Net);
        }
        berth_sys::sysctl::write_all(&self.sysctls, &made)?;
        Ok(())
    }
}

/// What cleaning up after a dead shim needs to know.
#[derive(Debug, Serialize, Deserialize)]
struct Trace {
    pid: i32,
    start_time: u64,
    cgroup: Option<String>,
}

/// A pause at work.
#[derive(Debug)]
pub struct Pause {
    process: Watched,
    life: Life,
    bundle: PathBuf,
    cgroup: Option<Cgroup>,
}

impl Pause {
    /// Starts it and pins its namespace.
    pub async fn start(
        reaper: &Arc<Reaper>,
        cgroups: &Cgroups,
        request: &PauseRequest,
    ) -> Result<Arc<Self>> {
        // What an earlier try left: there is one pause in a pod.
        clean_up(cgroups, &request.bundle).await?;
        let cgroup = match &request.cgroup {
            Some(pod) => Some(cgroups.at(pod)?.child(&request.cgroup_name())?),
            None => None,
        };
        if let Some(cgroup) = &cgroup {
            cgroup.create(Extent::All)?;
        }
        let handover = reaper.handover();
        let pid = fork(reaper, cgroup.as_ref(), request).await?;
        let process = Watched::adopt(reaper, pid)?.map_err(|problem| Error::Foreign {
            runtime: request.helper.display().to_string(),
            verb: VERB,
            id: request.bundle.display().to_string(),
            pid: pid.as_raw_pid(),
            problem,
        })?;
        drop(handover);
        let bundle = request.bundle.clone();
        let pause = Self { process, life: Life::new(Stdio::default()), bundle, cgroup };
        if let Err(error) = pause.settle_in() {
            let _ = pause.process.signal(Signal::KILL);
            return Err(error);
        }
        let pause = Arc::new(pause);
        tokio::spawn(Arc::clone(&pause).attend());
        Ok(pause)
    }

    fn settle_in(&self) -> Result<()> {
        let pid = self.process.pid();
        let trace = Trace {
            pid: pid.as_raw_pid(),
            start_time: berth_sys::process::start_time(pid)?,
            cgroup: self.cgroup.as_ref().map(|cgroup| cgroup.path().as_str().to_owned()),
        };
        let path = trace_file(&self.bundle);
        let text = serde_json::to_vec(&trace)
            .map_err(|source| Error::Json { what: path.display().to_string(), source })?;
        std::fs::write(&path, text).map_err(|e| Error::file("write", &path, e))?;
        Ok(namespace::pin(namespace_file(pid), pin_file(&self.bundle))?)
    }

    async fn attend(self: Arc<Self>) {
        let code = self.process.exited().await;
        self.life.end(Ended { code, at: SystemTime::now(), oom_kills: 0, dropped_lines: 0 });
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.process.pid().as_raw_pid().cast_unsigned()
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<Ended> {
        self.life.ended()
    }

    /// Waits for its death, by whose hand ever.
    pub async fn wait(&self) -> Option<Ended> {
        self.life.wait().await
    }

    /// Kills it, and with it everything in its namespace; unpins that.
    pub async fn stop(&self) -> Result<()> {
        if self.life.ended().is_none() {
            self.process.signal(Signal::KILL)?;
        }
        if tokio::time::timeout(LIMIT, self.life.wait()).await.is_err() {
            let (what, id) = ("kill the pause of", self.bundle.display().to_string());
            return Err(Error::TimedOut { what, id, limit: LIMIT });
        }
        namespace::unpin(pin_file(&self.bundle))?;
        if let Some(cgroup) = &self.cgroup {
            // Still a member for the moment of its last breath; if so, it goes with the pod's.
            let _ = cgroup.remove(Duration::from_millis(20));
        }
        let _ = std::fs::remove_file(trace_file(&self.bundle));
        Ok(())
    }
}

/// Where the namespace is pinned in a sandbox's bundle.
fn pin_file(bundle: &Path) -> PathBuf {
    bundle.join("pidns")
}

fn trace_file(bundle: &Path) -> PathBuf {
    bundle.join("berth-pause.json")
}

fn namespace_file(pid: Pid) -> String {
    format!("/proc/{}/ns/{}", pid.as_raw_pid(), Namespace::Pid.file())
}

async fn fork(
    reaper: &Arc<Reaper>,
    cgroup: Option<&Cgroup>,
    request: &PauseRequest,
) -> Result<Pid> {
    let own = own_program()?;
    let (mut answer, stdout) = Said::new()?;
    let (mut said, stderr) = Said::new()?;
    let mut program = Spawn::new(own)
        .arg(VERB)
        .arg(&request.helper)
        .cwd("/")
        .stdout(stdout)
        .stderr(stderr)
        .cgroups(cgroup.map(Cgroup::enter_files).unwrap_or_default());
    let user = request.user.clone().unwrap_or_default();
    if let Some(own) = &request.own {
        let own = serde_json::to_string(own)
            .map_err(|source| Error::Json { what: "namespaces".to_owned(), source })?;
        program = program.arg(user).arg(own);
    } else if request.user.is_some() {
        program = program.arg(user);
    }
    let failed = |message: String| Error::Runtime {
        runtime: request.helper.display().to_string(),
        verb: VERB,
        id: request.bundle.display().to_string(),
        message,
    };
    match said.during(answer.during(command::run(reaper, program, LIMIT))).await? {
        Some(0) => answer
            .last_line()
            .and_then(|line| line.trim().parse().ok())
            .and_then(Pid::from_raw)
            .ok_or_else(|| failed("it did not say its pid".to_owned())),
        Some(code) => Err(failed(said.last_line().unwrap_or_else(|| format!("exit code {code}")))),
        None => Err(failed(format!("not done within {} s", LIMIT.as_secs()))),
    }
}

/// The one in the middle: makes the namespace and PID 1 in it, whose pid it answers.
///
/// In the pod's user namespace it becomes root. It must not stay the node's root: whoever may trace
/// it from inside the pod would be that too, as an owner of files. (It enters by itself, and not on
/// its way to its own exec: the node's root is nobody there, and nobody's exec drops capabilities.)
///
/// `own` is [`OwnNamespaces`] as JSON.
pub fn in_the_middle(helper: &Path, user: Option<&Path>, own: Option<&str>) -> Result<i32> {
    if let Some(user) = user {
        namespace::enter(namespace::open(user)?, Namespace::User)?;
        let become_root = || -> rustix::io::Result<()> {
            let (user, group) = (rustix::process::Uid::ROOT, rustix::process::Gid::ROOT);
            rustix::thread::set_thread_groups(&[])?;
            rustix::thread::set_thread_res_gid(group, group, group)?;
            rustix::thread::set_thread_res_uid(user, user, user)
        };
        become_root().map_err(|e| Error::file("become root in", "the user namespace", e))?;
    }
    if let Some(own) = own {
        let own: OwnNamespaces = serde_json::from_str(own)
            .map_err(|source| Error::Json { what: "namespaces".to_owned(), source })?;
        own.enter()?;
    }
    namespace::unshare(&[Namespace::Pid])?;
    let (pid, _) = Spawn::new(helper).arg(VERB).cwd("/").spawn()?.into_pidfd();
    Ok(pid.as_raw_pid())
}

/// Ends a pause whose shim is dead, with everything in its namespace. None there is fine.
pub async fn clean_up(cgroups: &Cgroups, bundle: &Path) -> Result<()> {
    let path = trace_file(bundle);
    if let Some(trace) = std::fs::read(&path).ok().and_then(|text| read(&text)) {
        if let Some(pid) = Pid::from_raw(trace.pid)
            && let Ok(pidfd) = berth_sys::pidfd::open(pid)
            // The number may be somebody else's by now; the pidfd is of whoever has it.
            && berth_sys::process::start_time(pid).is_ok_and(|time| time == trace.start_time)
        {
            let _ = berth_sys::pidfd::send(&pidfd, Signal::KILL);
            let _ = berth_sys::pidfd::wait_exited(&pidfd, LIMIT);
        }
        if let Some(cgroup) = trace.cgroup {
            let cgroup = cgroups.at(&cgroup)?;
            cgroup.kill(Duration::from_millis(100))?;
            cgroup.remove(Duration::from_millis(100))?;
        }
        std::fs::remove_file(&path).map_err(|e| Error::file("remove", &path, e))?;
    }
    Ok(namespace::unpin(pin_file(bundle))?)
}

fn read(text: &[u8]) -> Option<Trace> {
    serde_json::from_slice(text).ok()
}
