//! v1: one hierarchy per controller or per group of controllers.

mod figures;
mod limits;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::io::{DeviceIo, Pressures};
use crate::members::Remaining;
use crate::oom::OomWatch;
use crate::path::CgroupPath;
use crate::resources::Resources;
use crate::stats::{Hugepages, MemoryDetail, Stats, Throttling, Usage};
use crate::{Controller, Extent, Layout, Version, files, kill, members};

/// The v1 hierarchies of this machine.
#[derive(Debug)]
pub(crate) struct V1 {
    hierarchies: Vec<(PathBuf, Vec<Controller>)>,
}

impl V1 {
    pub(crate) fn new(hierarchies: Vec<(PathBuf, Vec<Controller>)>) -> Self {
        Self { hierarchies }
    }

    /// Where this cgroup would be for a controller, existing or not.
    fn place(&self, path: &CgroupPath, controller: Controller) -> Option<PathBuf> {
        let holds = |(_, have): &&(PathBuf, Vec<Controller>)| have.contains(&controller);
        self.hierarchies.iter().find(holds).map(|(root, _)| path.under(root))
    }

    fn freezer(&self, path: &CgroupPath) -> Option<PathBuf> {
        self.directory(path, Controller::Freezer)
    }

    fn need(&self, path: &CgroupPath, controller: Controller, what: &str) -> Result<PathBuf> {
        self.place(path, controller).ok_or_else(|| Error::Unsupported {
            what: what.to_owned(),
            reason: "its v1 controller is not mounted",
        })
    }
}

impl Layout for V1 {
    fn version(&self) -> Version {
        Version::V1
    }

    fn controllers(&self) -> Vec<Controller> {
        self.hierarchies.iter().flat_map(|(_, have)| have.iter().copied()).collect()
    }

    fn create(&self, path: &CgroupPath, extent: Extent<'_>) -> Result<()> {
        for (root, have) in &self.hierarchies {
            let wanted = match extent {
                Extent::All => true,
                Extent::Only(controllers) => have.iter().any(|c| controllers.contains(c)),
            };
            if !wanted {
                continue;
            }
            for name in path.lineage() {
                let directory = name.under(root);
                make_directory(&directory)?;
                if have.contains(&Controller::Cpuset) {
                    fill_in_cpuset(&directory)?;
                }
            }
        }
        Ok(())
    }

    fn directories(&self, path: &CgroupPath) -> Vec<PathBuf> {
        let all = self.hierarchies.iter().map(|(root, _)| path.under(root));
        all.filter(|directory| directory.is_dir()).collect()
    }

    fn directory(&self, path: &CgroupPath, controller: Controller) -> Option<PathBuf> {
        self.place(path, controller).filter(|directory| directory.is_dir())
    }

    /// Not cgroup.procs: moving one thread that is the writer itself takes no lock that waits for
    /// a grace period.
    fn enter_file(&self) -> &'static str {
        "tasks"
    }

    fn apply(&self, path: &CgroupPath, resources: &Resources) -> Result<()> {
        limits::apply(self, path, resources)
    }

    fn freeze(&self, path: &CgroupPath, limit: Duration) -> Result<bool> {
        let directory = self.need(path, Controller::Freezer, "freezing")?;
        freeze(&directory, limit)
    }

    fn thaw(&self, path: &CgroupPath) -> Result<()> {
        match self.freezer(path) {
            Some(directory) => thaw(&directory),
            None => Ok(()),
        }
    }

    fn kill(&self, path: &CgroupPath, limit: Duration) -> Result<Vec<Remaining>> {
        let freezer = self.freezer(path);
        let before = |left: Duration| match &freezer {
            // Not frozen in time (a member waits in the kernel): kill what there is all the same.
            Some(directory) => {
                freeze(directory, left.min(FREEZE)).map(drop).or_else(|e| absent(e, ()))
            }
            None => Ok(()),
        };
        let after = || freezer.as_deref().map_or(Ok(()), thaw);
        kill::in_rounds(&self.directories(path), limit, before, after)
    }

    /// `oom_kill` of v1 counts the cgroup alone: those below are added here.
    fn oom_kills(&self, path: &CgroupPath) -> Result<u64> {
        let top = self.need(path, Controller::Memory, "counting OOM kills")?;
        let own = oom_kills_of(&top)?;
        let mut sum = own;
        for directory in members::tree(&top)?.iter().skip(1) {
            sum += oom_kills_of(directory).or_else(|error| absent(error, 0))?;
        }
        Ok(sum)
    }

    fn oom_watch(&self, path: &CgroupPath) -> Result<OomWatch> {
        OomWatch::v1(&self.need(path, Controller::Memory, "watching for OOM")?)
    }

    fn stats(&self, path: &CgroupPath) -> Result<Stats> {
        figures::stats(self, path)
    }

    fn usage(&self, path: &CgroupPath) -> Result<Usage> {
        figures::usage(self, path)
    }

    fn tasks(&self, path: &CgroupPath) -> Result<Option<u64>> {
        figures::tasks(self, path)
    }

    fn throttling(&self, path: &CgroupPath) -> Result<Option<Throttling>> {
        figures::throttling(self, path)
    }

    fn memory_stat(&self, path: &CgroupPath) -> Result<Vec<(String, u64)>> {
        let directory = self.need(path, Controller::Memory, "reading memory.stat")?;
        files::read(&directory.join("memory.stat"), |text| {
            files::lines(text).map(|(key, value)| (key.to_owned(), value)).collect()
        })
    }

    fn memory_detail(&self, path: &CgroupPath) -> Result<Option<MemoryDetail>> {
        figures::memory_detail(self, path)
    }

    fn hugepages(&self, path: &CgroupPath, size: &str) -> Result<Option<Hugepages>> {
        figures::hugepages(self, path, size)
    }

    fn population(&self, path: &CgroupPath) -> Option<PathBuf> {
        let by = [Controller::Pids, Controller::Memory, Controller::Freezer];
        by.iter().find_map(|controller| self.directory(path, *controller))
    }

    fn io(&self, path: &CgroupPath) -> Result<Vec<DeviceIo>> {
        figures::io(self, path)
    }

    fn pressures(&self, _path: &CgroupPath) -> Result<Option<Pressures>> {
        Ok(None)
    }
}

/// How long one round of a kill waits for all to stand still.
const FREEZE: Duration = Duration::from_millis(50);

fn make_directory(directory: &Path) -> Result<()> {
    match std::fs::create_dir(directory) {
        Ok(()) => Ok(()),
        // A file of the kernel's may have that name.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && directory.is_dir() => {
            Ok(())
        }
        Err(error) => Err(Error::file("make", directory, error)),
    }
}

/// A new cpuset is empty, and nothing can enter it before it has processors and memory nodes.
fn fill_in_cpuset(directory: &Path) -> Result<()> {
    let Some(parent) = directory.parent() else { return Ok(()) };
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let file = directory.join(name);
        let empty = files::read(&file, |text| text.trim().is_empty())?;
        if empty {
            let value = files::read(&parent.join(name), |text| text.trim().to_owned())?;
            files::write(&file, &value)?;
        }
    }
    Ok(())
}

fn freeze(directory: &Path, limit: Duration) -> Result<bool> {
    let file = directory.join("freezer.state");
    let end = Instant::now() + limit;
    let mut pause = Duration::from_micros(100);
    files::write(&file, "FROZEN")?;
    loop {
        if files::read(&file, |text| text.trim() == "FROZEN")? {
            return Ok(true);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

fn thaw(directory: &Path) -> Result<()> {
    let file = directory.join("freezer.state");
    files::write_if_there(&file, "THAWED").map(drop)
}

fn oom_kills_of(directory: &Path) -> Result<u64> {
    let file = directory.join("memory.oom_control");
    files::read(&file, |text| files::field(text, "oom_kill").unwrap_or(0))
}

/// What vanished meanwhile counts as nothing.
fn absent<T>(error: Error, nothing: T) -> Result<T> {
    if error.is_not_found() { Ok(nothing) } else { Err(error) }
}
