//! What happens in the kernel of a gVisor sandbox, as runsc tells and is told.
//!
//! Pids are those of that kernel as a whole, whatever PID namespaces its containers have: `ps` and
//! `exec --internal-pid-file` give them, `kill --pid` takes them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use berth_cgroup::{Cpu, Memory, Pids, Stats, Version};
use berth_sys::{Pid, Signal};
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::place::Figures;
use crate::runtime::{Call, OTHER, Runtime};

/// An end takes as long as it takes.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);
/// How often what a killed command has started meanwhile is looked for.
const LOOKS: u32 = 5;

/// A container in a sandbox.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    runtime: Arc<Runtime>,
    id: String,
    bundle: PathBuf,
}

/// One process in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    pid: u32,
    parent: u32,
}

impl Guest {
    pub(crate) fn new(runtime: &Arc<Runtime>, id: &str, bundle: &Path) -> Self {
        Self { runtime: Arc::clone(runtime), id: id.to_owned(), bundle: bundle.to_owned() }
    }

    /// Waits for the end of its first process, which must have been started; its exit code as
    /// shells show it.
    ///
    /// # Errors
    /// The sandbox has ended, or the call was killed.
    pub(crate) async fn wait(&self) -> Result<u32> {
        #[derive(Deserialize)]
        struct Waited {
            #[serde(rename = "exitStatus")]
            exit_status: u32,
        }
        let said = self.ask("wait", FOR_EVER, &[]).await?;
        Ok(self.parse::<Waited>("wait", &said)?.exit_status)
    }

    /// Sends a signal to its first process, or to all of them.
    pub(crate) async fn kill(&self, signal: Signal, all: bool) -> Result<()> {
        let number = signal.number().to_string();
        match all {
            true => self.tell_kill(&["--all", &self.id, &number]).await,
            false => self.tell_kill(&[&self.id, &number]).await,
        }
    }

    /// Thaws it.
    pub(crate) async fn resume(&self) -> Result<()> {
        self.runtime.resume(&self.id, &self.bundle).await
    }

    /// Sends a signal to one process.
    pub(crate) async fn kill_process(&self, pid: u32, signal: Signal) -> Result<()> {
        let (pid, number) = (pid.to_string(), signal.number().to_string());
        self.tell_kill(&["--pid", &pid, &self.id, &number]).await
    }

    async fn tell_kill(&self, args: &[&str]) -> Result<()> {
        let args = args.iter().map(PathBuf::from).collect();
        self.runtime.ask(&self.call("kill", OTHER), args).await.map(drop)
    }

    /// Kills a process and its descendants. One whose parents have ended before is not found.
    pub(crate) async fn kill_tree(&self, root: u32) -> Result<()> {
        let mut family = vec![root];
        let mut dead = 0;
        for _ in 0..LOOKS {
            let there = self.processes().await?;
            add_descendants(&mut family, &there);
            if family.len() == dead {
                return Ok(());
            }
            for pid in &family[dead..] {
                // It may have ended by itself.
                let _ = self.kill_process(*pid, Signal::KILL).await;
            }
            dead = family.len();
        }
        Ok(())
    }

    /// The pids of its processes.
    pub(crate) async fn pids(&self) -> Result<Vec<u32>> {
        Ok(self.processes().await?.into_iter().map(|process| process.pid).collect())
    }

    async fn processes(&self) -> Result<Vec<Process>> {
        let said = self.ask("ps", OTHER, &["--format", "table"]).await?;
        Ok(String::from_utf8_lossy(&said).lines().filter_map(process).collect())
    }

    /// What is counted of it: processor time, memory, processes.
    pub(crate) async fn figures(&self, version: Version) -> Result<Figures> {
        let said = self.ask("events", OTHER, &["--stats"]).await?;
        let event = self.parse::<Event>("events", &said)?;
        Ok(event.data.figures(version))
    }

    async fn ask(&self, verb: &'static str, limit: Duration, options: &[&str]) -> Result<Vec<u8>> {
        let mut args: Vec<PathBuf> = options.iter().map(PathBuf::from).collect();
        args.push(self.id.clone().into());
        self.runtime.ask(&self.call(verb, limit), args).await
    }

    fn call(&self, verb: &'static str, limit: Duration) -> Call<'_> {
        Call { verb, id: &self.id, bundle: &self.bundle, limit }
    }

    fn parse<'a, T: Deserialize<'a>>(&self, verb: &str, said: &'a [u8]) -> Result<T> {
        serde_json::from_slice(said).map_err(|source| {
            let what = format!("what {} says to {verb}", self.runtime.options().binary.display());
            Error::Json { what, source }
        })
    }
}

/// A line of `ps --format table`: UID, PID, PPID and others; the first one has their names.
fn process(line: &str) -> Option<Process> {
    let mut fields = line.split_whitespace().skip(1).map(str::parse);
    match (fields.next()?, fields.next()?) {
        (Ok(pid), Ok(parent)) => Some(Process { pid, parent }),
        _ => None,
    }
}

fn add_descendants(family: &mut Vec<u32>, there: &[Process]) {
    let mut at = 0;
    while at < family.len() {
        let parent = family[at];
        let children = there.iter().filter(|process| process.parent == parent);
        let new: Vec<u32> =
            children.map(|child| child.pid).filter(|pid| !family.contains(pid)).collect();
        family.extend(new);
        at += 1;
    }
}

/// `events --stats`, as far as it is read.
#[derive(Deserialize)]
struct Event {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    cpu: WithUsage<CpuUsage>,
    memory: WithUsage<MemoryUsage>,
    pids: PidsUsage,
}

#[derive(Deserialize)]
struct WithUsage<T> {
    usage: T,
}

/// Nanoseconds. What is 0 is left out.
#[derive(Deserialize)]
struct CpuUsage {
    #[serde(default)]
    total: u64,
}

/// Bytes.
#[derive(Deserialize)]
struct MemoryUsage {
    #[serde(default)]
    usage: u64,
}

#[derive(Deserialize)]
struct PidsUsage {
    #[serde(default)]
    current: u64,
}

impl Data {
    fn figures(&self, version: Version) -> Figures {
        let usage = self.memory.usage.usage;
        let stats = Stats {
            at: SystemTime::now(),
            cpu: Some(Cpu { usage_ns: self.cpu.usage.total, ..Cpu::default() }),
            // Nothing in it is a page cache that could be dropped.
            memory: Some(Memory { usage, working_set: usage, rss: usage, ..Memory::default() }),
            swap: None,
            pids: Some(Pids { current: self.pids.current, limit: None }),
        };
        Figures {
            version,
            stats,
            throttling: None,
            memory: ["rss", "total_rss", "anon"].map(|name| (name.to_owned(), usage)).into(),
            io: Vec::new(),
            pressures: None,
            oom_kills: 0,
        }
    }
}

/// The pid of the sandbox's process, by the file in which runsc keeps what it knows of a container.
pub(crate) fn sandbox_pid(state: &Path) -> Option<Pid> {
    #[derive(Deserialize)]
    struct State {
        sandbox: Sandbox,
    }
    #[derive(Deserialize)]
    struct Sandbox {
        pid: i32,
    }
    let state: State = serde_json::from_slice(&std::fs::read(state).ok()?).ok()?;
    Pid::from_raw(state.sandbox.pid)
}

pub(crate) fn is_alive(pid: Pid) -> bool {
    berth_sys::process::stat(pid).is_ok_and(|stat| !stat.state.is_over())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_read_and_the_head_is_none() {
        let table = "UID       PID       PPID      C         TTY       STIME     TIME      CMD\n\
                     0         2         0         4         ?         17:06     10ms      sh\n\
                     65534     4         2         1         ?         17:06     0s        a b\n";
        let read: Vec<_> = table.lines().filter_map(process).collect();
        assert_eq!(read, [Process { pid: 2, parent: 0 }, Process { pid: 4, parent: 2 }]);
    }

    #[test]
    fn a_family_is_found_through_its_dead() {
        let process = |pid, parent| Process { pid, parent };
        let there = [process(2, 0), process(5, 2), process(6, 5), process(7, 6), process(8, 2)];
        let mut family = vec![5];
        add_descendants(&mut family, &there);
        assert_eq!(family, [5, 6, 7]);
        // 5 and 6 are gone, and 7 has made another.
        add_descendants(&mut family, &[process(7, 2), process(9, 7)]);
        assert_eq!(family, [5, 6, 7, 9]);
    }

    #[test]
    fn figures_are_read_also_where_what_is_zero_is_left_out() {
        let said = r#"{"type":"stats","id":"c1","data":{"cpu":{"usage":{"total":182181476}},
            "memory":{"usage":{"limit":0,"usage":3940352,"failcnt":0}},"pids":{"current":2}}}"#;
        let event: Event = serde_json::from_str(said).unwrap();
        let figures = event.data.figures(Version::V2).stats;
        assert_eq!(figures.cpu.unwrap().usage_ns, 182_181_476);
        assert_eq!(figures.memory.unwrap().working_set, 3_940_352);
        assert_eq!(figures.pids.unwrap().current, 2);
        let said = r#"{"data":{"cpu":{"usage":{}},"memory":{"usage":{}},"pids":{"current":1}}}"#;
        let event: Event = serde_json::from_str(said).unwrap();
        assert_eq!(event.data.figures(Version::V1).stats.cpu.unwrap().usage_ns, 0);
    }

    #[test]
    fn the_sandbox_of_a_container_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a_sandbox:p.state");
        std::fs::write(&file, r#"{"id":"a","sandbox":{"id":"p","pid":1796,"uid":0}}"#).unwrap();
        assert_eq!(sandbox_pid(&file).unwrap().as_raw_pid(), 1796);
        std::fs::write(&file, "").unwrap();
        assert_eq!(sandbox_pid(&file), None);
        assert!(is_alive(rustix::process::getpid()));
    }
}
