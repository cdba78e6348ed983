//! Control groups: v1 and v2 behind one interface.
//!
//! Which of the two a machine has is found out once ([`Cgroups::detect`]). A [`Cgroup`] is a name
//! in it, such as `/kubepods/burstable/podX/<id>`: on v2 one directory, on v1 one in each hierarchy
//! (machines mount them in any combination, `cpu` and `cpuacct` together or apart). Nothing is
//! cached: every call reads or writes the kernel's files.
//!
//! Killing is the reason why this crate exists: [`Cgroup::kill`] ends when nothing is left alive in
//! a cgroup and all below it, or says who remains and where in the kernel it waits.
//!
//! It must not know what a pod or a container is. Sources: Documentation/admin-guide/cgroup-v1/
//! and cgroup-v2.rst of Linux.

mod convert;
mod detect;
mod error;
mod files;
mod io;
mod kill;
mod members;
mod oom;
mod path;
mod resources;
mod stats;
pub mod systemd;
mod v1;
mod v2;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use berth_sys::Pid;

pub use convert::{linear_weight, weight};
pub use error::{Error, Result};
pub use io::{DeviceIo, Pressure, Pressures, Stall};
pub use members::Remaining;
pub use oom::OomWatch;
pub use path::CgroupPath;
pub use resources::{HugepageLimit, Resources};
pub use stats::{Cpu, Hugepages, Memory, MemoryDetail, Pids, Stats, Swap, Throttling, Usage};

/// The generation of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// One hierarchy per controller.
    V1,
    /// One hierarchy for all.
    V2,
}

/// What a cgroup can account for or limit. On v1 also the hierarchies without a controller that
/// Berth uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Controller {
    /// Processor shares and quota.
    Cpu,
    /// Processor time used (v1; part of `cpu` on v2).
    Cpuacct,
    /// Which processors and memory nodes.
    Cpuset,
    /// Memory and swap.
    Memory,
    /// Number of tasks.
    Pids,
    /// Block I/O (`blkio` on v1).
    Io,
    /// Huge pages.
    Hugetlb,
    /// Access to device nodes (v1).
    Devices,
    /// Stopping all members (v1; built in on v2).
    Freezer,
    /// Tags of network packets (v1).
    NetCls,
    /// Priority of network packets (v1).
    NetPrio,
    /// Performance counters (v1; built in on v2).
    PerfEvent,
    /// RDMA resources.
    Rdma,
    /// Scalar resources without a controller of their own.
    Misc,
    /// systemd's own hierarchy `name=systemd` (v1), by which it knows what belongs to a unit.
    Systemd,
}

/// How a cgroup directory is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent<'a> {
    /// With every controller the machine has.
    All,
    /// v1: only in the hierarchies of these; v2: all the same, one directory has them all.
    Only(&'a [Controller]),
}

/// The operations in which v1 and v2 differ.
trait Layout: Send + Sync + std::fmt::Debug {
    fn version(&self) -> Version;
    fn controllers(&self) -> Vec<Controller>;
    fn create(&self, path: &CgroupPath, extent: Extent<'_>) -> Result<()>;
    /// The directories of this cgroup that exist.
    fn directories(&self, path: &CgroupPath) -> Vec<PathBuf>;
    fn directory(&self, path: &CgroupPath, controller: Controller) -> Option<PathBuf>;
    fn enter_file(&self) -> &'static str;
    fn apply(&self, path: &CgroupPath, resources: &Resources) -> Result<()>;
    fn freeze(&self, path: &CgroupPath, limit: Duration) -> Result<bool>;
    fn thaw(&self, path: &CgroupPath) -> Result<()>;
    fn kill(&self, path: &CgroupPath, limit: Duration) -> Result<Vec<Remaining>>;
    fn oom_kills(&self, path: &CgroupPath) -> Result<u64>;
    fn oom_watch(&self, path: &CgroupPath) -> Result<OomWatch>;
    fn stats(&self, path: &CgroupPath) -> Result<Stats>;
    fn usage(&self, path: &CgroupPath) -> Result<Usage>;
    fn tasks(&self, path: &CgroupPath) -> Result<Option<u64>>;
    fn throttling(&self, path: &CgroupPath) -> Result<Option<Throttling>>;
    fn memory_stat(&self, path: &CgroupPath) -> Result<Vec<(String, u64)>>;
    fn memory_detail(&self, path: &CgroupPath) -> Result<Option<MemoryDetail>>;
    fn hugepages(&self, path: &CgroupPath, size: &str) -> Result<Option<Hugepages>>;
    /// The one directory whose tree has every process, to be read for figures.
    fn population(&self, path: &CgroupPath) -> Option<PathBuf>;
    fn io(&self, path: &CgroupPath) -> Result<Vec<DeviceIo>>;
    fn pressures(&self, path: &CgroupPath) -> Result<Option<Pressures>>;
}

/// The cgroup file systems of this machine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Cgroups {
    layout: Arc<dyn Layout>,
}

impl Cgroups {
    /// Finds out what this machine has, from the mounts this process sees.
    ///
    /// # Errors
    /// [`Error::NoHierarchy`] if no cgroup file system is mounted.
    pub fn detect() -> Result<Self> {
        detect::detect()
    }

    /// A v2 hierarchy at this directory (for tests, and nodes with an unusual mount).
    pub fn v2_at(root: impl Into<PathBuf>) -> Self {
        Self { layout: Arc::new(v2::V2::new(root.into())) }
    }

    /// v1 hierarchies: each directory with the controllers that are mounted there.
    pub fn v1_at(hierarchies: impl IntoIterator<Item = (PathBuf, Vec<Controller>)>) -> Self {
        Self { layout: Arc::new(v1::V1::new(hierarchies.into_iter().collect())) }
    }

    /// The sizes of huge pages that this machine has, as cgroups name them: `2MB`, `1GB`.
    pub fn hugepage_sizes() -> Vec<String> {
        let sizes = std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
        let mut sizes: Vec<_> =
            sizes.filter_map(|entry| convert::hugepage_size(entry.file_name().to_str()?)).collect();
        sizes.sort();
        sizes
    }

    /// The generation that is in use here.
    pub fn version(&self) -> Version {
        self.layout.version()
    }

    /// The controllers there are.
    pub fn controllers(&self) -> Vec<Controller> {
        self.layout.controllers()
    }

    /// The cgroup of this name. Nothing is made or looked up.
    ///
    /// # Errors
    /// [`Error::Path`] for `/` itself, relative names, `..` and whatever else is no plain name.
    pub fn at(&self, path: &str) -> Result<Cgroup> {
        Ok(Cgroup { layout: Arc::clone(&self.layout), path: CgroupPath::parse(path)? })
    }
}

/// One cgroup by name; it need not exist.
#[derive(Clone, Debug)]
pub struct Cgroup {
    layout: Arc<dyn Layout>,
    path: CgroupPath,
}

impl Cgroup {
    /// Its name.
    pub fn path(&self) -> &CgroupPath {
        &self.path
    }

    /// The cgroup that it is in; `None` if that is the root.
    pub fn above(&self) -> Option<Self> {
        Some(Self { layout: Arc::clone(&self.layout), path: self.path.parent()? })
    }

    /// The cgroup of this name below this one.
    pub fn child(&self, name: &str) -> Result<Self> {
        Ok(Self { layout: Arc::clone(&self.layout), path: self.path.child(name)? })
    }

    /// Makes it, and what is missing above it; what exists stays as it is.
    ///
    /// v1: in every hierarchy of `extent`; an empty cpuset is filled in from its parent, without
    /// which nothing could enter. v2: the controllers are enabled for it in all cgroups above.
    pub fn create(&self, extent: Extent<'_>) -> Result<()> {
        self.layout.create(&self.path, extent)
    }

    /// Whether it exists, in any hierarchy.
    pub fn exists(&self) -> bool {
        !self.layout.directories(&self.path).is_empty()
    }

    /// Its directory for one controller, if that exists.
    pub fn directory(&self, controller: Controller) -> Option<PathBuf> {
        self.layout.directory(&self.path, controller)
    }

    /// The files a new process writes `0` to in order to enter it, in every hierarchy where it
    /// exists (see `berth_sys::spawn`): `tasks` on v1, which needs no lock on the process, and
    /// `cgroup.procs` on v2.
    pub fn enter_files(&self) -> Vec<PathBuf> {
        let name = self.layout.enter_file();
        self.layout.directories(&self.path).into_iter().map(|dir| dir.join(name)).collect()
    }

    /// Moves a whole process in, from outside. On v1 that takes up to 20 ms (a grace period of the
    /// kernel for each hierarchy): spawn into it instead where that is possible.
    pub fn admit(&self, pid: Pid) -> Result<()> {
        for directory in self.layout.directories(&self.path) {
            files::write(&directory.join("cgroup.procs"), &pid.as_raw_pid().to_string())?;
        }
        Ok(())
    }

    /// Writes limits; what is `None` stays as it is.
    pub fn apply(&self, resources: &Resources) -> Result<()> {
        self.layout.apply(&self.path, resources)
    }

    /// All living processes in it and below it, each once, over all hierarchies.
    pub fn processes(&self) -> Result<Vec<Pid>> {
        members::below(&self.layout.directories(&self.path))
    }

    /// Stops all members and waits until they stand still: true if they do within `limit`. They
    /// stay told to stop in either case; see [`Cgroup::thaw`].
    ///
    /// # Errors
    /// [`Error::Own`] if the caller is in it; [`Error::Unsupported`] without a freezer.
    pub fn freeze(&self, limit: Duration) -> Result<bool> {
        members::refuse_own(self, &self.processes()?)?;
        self.layout.freeze(&self.path, limit)
    }

    /// Lets all members run again. Absent, or never frozen, is fine.
    pub fn thaw(&self) -> Result<()> {
        self.layout.thaw(&self.path)
    }

    /// Kills everything in it and below it and sees it gone. Returns who remains after `limit`:
    /// nobody, unless a process waits uninterruptibly in the kernel. Absent is fine.
    ///
    /// v2 writes `cgroup.kill`. v1 freezes, so that nobody can fork away, sends SIGKILL to all,
    /// thaws, and does it again until none is left. Zombies count as gone: they cannot run, and
    /// their parent may be dead.
    ///
    /// # Errors
    /// [`Error::Own`] if the caller is in it: nothing is killed then.
    pub fn kill(&self, limit: Duration) -> Result<Vec<Remaining>> {
        members::refuse_own(self, &self.processes()?)?;
        self.layout.kill(&self.path, limit)
    }

    /// How many processes the kernel has killed in it and below it for lack of memory. Read it
    /// before removing the cgroup. NotFound once that is gone.
    pub fn oom_kills(&self) -> Result<u64> {
        self.layout.oom_kills(&self.path)
    }

    /// A descriptor that becomes readable when the kernel runs out of this cgroup's memory.
    pub fn oom_watch(&self) -> Result<OomWatch> {
        self.layout.oom_watch(&self.path)
    }

    /// Processor, memory, swap and process figures, for it and all below it.
    pub fn stats(&self) -> Result<Stats> {
        self.layout.stats(&self.path)
    }

    /// Processor time, memory and swap alone, from as few files as can be: for lists.
    pub fn usage(&self) -> Result<Usage> {
        self.layout.usage(&self.path)
    }

    /// How many tasks are in it and below it; `None` without the `pids` controller.
    pub fn tasks(&self) -> Result<Option<u64>> {
        self.layout.tasks(&self.path)
    }

    /// How often its processor quota held it back; `None` without the `cpu` controller.
    pub fn throttling(&self) -> Result<Option<Throttling>> {
        self.layout.throttling(&self.path)
    }

    /// The lines of its `memory.stat`, which differ between v1 and v2 (v1: `total_` lines are
    /// those with all below it).
    pub fn memory_stat(&self) -> Result<Vec<(String, u64)>> {
        self.layout.memory_stat(&self.path)
    }

    /// Memory in more detail; `None` without the `memory` controller.
    pub fn memory_detail(&self) -> Result<Option<MemoryDetail>> {
        self.layout.memory_detail(&self.path)
    }

    /// Huge pages of these sizes (see [`Cgroups::hugepage_sizes`]), for it and all below it; those that are
    /// not accounted for are left out.
    pub fn hugepages(&self, sizes: &[String]) -> Result<Vec<Hugepages>> {
        let of = |size: &String| self.layout.hugepages(&self.path, size).transpose();
        sizes.iter().filter_map(of).collect()
    }

    /// Its processes and all below it, from one hierarchy alone: for figures. Who is to be killed is
    /// told by [`Cgroup::processes`].
    pub fn population(&self) -> Result<Vec<Pid>> {
        members::below(self.layout.population(&self.path).as_slice())
    }

    /// Block I/O by device, for it and all below it.
    pub fn io(&self) -> Result<Vec<DeviceIo>> {
        self.layout.io(&self.path)
    }

    /// Pressure stall information; `None` on v1 and where the kernel keeps none.
    pub fn pressures(&self) -> Result<Option<Pressures>> {
        self.layout.pressures(&self.path)
    }

    /// Its `cpu.weight`; `None` on v1 and without the controller.
    pub fn weight(&self) -> Option<u64> {
        let file = self.directory(Controller::Cpu)?.join("cpu.weight");
        files::number_if_there(&file).ok().flatten()
    }

    /// Removes it and all below it, in every hierarchy. Absent is fine.
    ///
    /// A cgroup with a living process cannot be removed: it is tried until `limit` (a killed
    /// process is a member until its exit is complete), then the error is Busy. Kill first.
    pub fn remove(&self, limit: Duration) -> Result<()> {
        members::remove(&self.layout.directories(&self.path), limit)
    }
}
