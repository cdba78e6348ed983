//! What a subject takes: memory of its processes and of the kernel on its behalf, descriptors,
//! threads, CPU time.
//!
//! **Processes**: the proportional set size (PSS of smaps_rollup, which shares out what several
//! map) of every process of the subject but those in the containers' own cgroups. **Kernel**: what
//! is charged to the subject's cgroups as kernel memory (slab, stacks, page tables, per-CPU
//! areas) and as tmpfs, less what is charged to the containers' own cgroups, after the kernel was
//! told to take back what it can. **Caches** are what it took back of that kernel memory (names
//! and inodes of files). Page cache of disks counts nowhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::{Kind, Subject};

/// What everything of a subject takes at one moment, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Memory {
    /// PSS of the daemon.
    pub(crate) daemon: f64,
    /// PSS of every other process, the containers' apart.
    pub(crate) others: f64,
    /// Kernel memory and tmpfs; `None` where no cgroup tells.
    pub(crate) kernel: Option<f64>,
    /// Kernel memory that the kernel took back when it was told to.
    pub(crate) caches: f64,
    /// Threads of the daemon.
    pub(crate) threads: f64,
    /// Descriptors of the daemon.
    pub(crate) descriptors: f64,
}

impl Memory {
    /// PSS of all processes.
    pub(crate) fn processes(&self) -> f64 {
        self.daemon + self.others
    }
}

impl Subject {
    /// Looks at everything that there is now.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub(crate) async fn memory(&self) -> Result<Memory> {
        let mut memory = Memory::default();
        if let Kind::Cri(cri) = &self.kind {
            let daemon = cri.daemon();
            memory.daemon = pss(daemon).context("the daemon's memory")?;
            memory.threads = count(&format!("/proc/{daemon}/task"))?;
            memory.descriptors = count(&format!("/proc/{daemon}/fd"))?;
            for pid in self.processes().await? {
                // One that has just ended takes nothing.
                memory.others += pss(pid).unwrap_or(0.0);
            }
        }
        if let Some(site) = self.site() {
            let top = site.node.parent().dir("memory");
            let before = self.kernel(&top)?;
            take_back(&top)?;
            let kernel = self.kernel(&top)?;
            memory.caches = (before - kernel).max(0.0);
            memory.kernel = Some(kernel);
        }
        Ok(memory)
    }

    /// What is charged for the kernel below `top`, without the containers' own cgroups.
    fn kernel(&self, top: &Path) -> Result<f64> {
        let own = self.container_cgroups().into_iter().map(|path| kernel(&top.join(path)));
        Ok(kernel(top)? - own.sum::<Result<f64>>()?)
    }

    /// The processes of a CRI subject without its daemon and the containers.
    ///
    /// # Errors
    /// If a call fails.
    pub(crate) async fn processes(&self) -> Result<BTreeSet<u32>> {
        let Kind::Cri(cri) = &self.kind else { return Ok(BTreeSet::new()) };
        let Some(site) = self.site() else {
            let ids = cri.held().iter().flat_map(|held| [&held.pod.id, &held.container]);
            return Ok(named(&ids.map(String::as_str).collect::<Vec<_>>(), cri.daemon()));
        };
        let mut found = site.node.parent().processes();
        found.remove(&cri.daemon());
        let pids = site.node.parent().dir("pids");
        for cgroup in self.container_cgroups() {
            let text = fs::read_to_string(pids.join(cgroup).join("cgroup.procs"))?;
            for pid in text.lines().filter_map(|line| line.parse().ok()) {
                found.remove(&pid);
            }
        }
        Ok(found)
    }

    /// The cgroups of the containers that are held, below the node's.
    fn container_cgroups(&self) -> Vec<PathBuf> {
        match &self.kind {
            Kind::Bare(bare) => bare.containers(),
            Kind::Cri(cri) => {
                let held = cri.held().iter();
                held.map(|held| format!("pods/{}/{}", held.number, held.container).into()).collect()
            }
        }
    }
}

/// The processes that name one of these ids on their command line: shims and monitors do.
fn named(ids: &[&str], but: u32) -> BTreeSet<u32> {
    let own = std::process::id();
    let pids = berth_sys::process::all().unwrap_or_default().into_iter();
    let pids = pids.map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    pids.filter(|pid| *pid != but && *pid != own)
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            ids.iter().any(|id| line.contains(id))
        })
        .collect()
}

fn pss(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    pss_of(&text).with_context(|| format!("Pss in {path}"))
}

fn pss_of(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok().map(|kib| kib * 1024.0)
}

/// Kernel memory and tmpfs charged to a cgroup and those below.
fn kernel(dir: &Path) -> Result<f64> {
    let stat = fs::read_to_string(dir.join("memory.stat"))
        .with_context(|| format!("the memory of the cgroup {}", dir.display()))?;
    let v1 = dir.join("memory.kmem.usage_in_bytes");
    if v1.exists() {
        let kernel: f64 = fs::read_to_string(&v1)?.trim().parse()?;
        return Ok(kernel + field(&stat, "total_shmem"));
    }
    Ok(field(&stat, "kernel") + field(&stat, "shmem"))
}

/// Tells the kernel to take back what it can of a cgroup's memory.
fn take_back(dir: &Path) -> Result<()> {
    let v1 = dir.join("memory.force_empty");
    if v1.exists() {
        return fs::write(&v1, "0").with_context(|| format!("write {}", v1.display()));
    }
    // It cannot be as much as is asked for, and then says EAGAIN (cgroup-v2, memory.reclaim).
    match fs::write(dir.join("memory.reclaim"), "1T") {
        Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => {
            Err(error).with_context(|| format!("take back memory of {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn field(stat: &str, name: &str) -> f64 {
    let mut pairs = stat.lines().filter_map(|line| line.split_once(' '));
    let value = pairs.find(|(key, _)| *key == name).map(|(_, value)| value);
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0.0)
}

fn count(dir: &str) -> Result<f64> {
    let entries = fs::read_dir(dir).with_context(|| format!("list {dir}"))?;
    Ok(entries.count() as f64)
}

/// CPU time of a process and its threads, in milliseconds, to the kernel's tick of 10.
///
/// # Errors
/// If it is gone.
pub(crate) fn process_cpu_ms(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    ticks_of(&text).map(|ticks| ticks * 10.0).with_context(|| format!("CPU times in {path}"))
}

/// utime and stime of proc(5): the fields 14 and 15, the name in parentheses being the second.
fn ticks_of(stat: &str) -> Option<f64> {
    let rest = stat.rsplit(')').next()?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        let rollup = "00400000-7ffd [rollup]\nRss:  5000 kB\nPss:     208 kB\nPss_Anon: 100 kB\n";
        assert_eq!(pss_of(rollup), Some(208.0 * 1024.0));
        assert_eq!(field("cache 1\nshmem 7\ntotal_shmem 4096\n", "total_shmem"), 4096.0);
        assert_eq!(field("cache 1\n", "kernel"), 0.0);
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 1 0 0 0 12 30 5 6 20 0 1 0 99 1 1";
        assert_eq!(ticks_of(stat), Some(42.0));
    }

    #[test]
    fn this_process_takes_memory_and_has_descriptors() {
        let own = std::process::id();
        assert!(pss(own).unwrap() > 100_000.0);
        assert!(count(&format!("/proc/{own}/fd")).unwrap() >= 3.0);
        assert!(process_cpu_ms(own).is_ok());
    }
}
