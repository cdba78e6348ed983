//! v2: one hierarchy for all controllers.

mod figures;
mod limits;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::{Error, Result};
use crate::io::{DeviceIo, Pressures};
use crate::members::Remaining;
use crate::oom::OomWatch;
use crate::path::CgroupPath;
use crate::resources::Resources;
use crate::stats::{Hugepages, MemoryDetail, Stats, Throttling, Usage};
use crate::{Controller, Extent, Layout, Version, files, kill};

/// The v2 hierarchy of this machine.
#[derive(Debug)]
pub(crate) struct V2 {
    root: PathBuf,
}

impl V2 {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }
}

impl Layout for V2 {
    fn version(&self) -> Version {
        Version::V2
    }

    fn controllers(&self) -> Vec<Controller> {
        let file = self.root.join("cgroup.controllers");
        let names = files::read(&file, |text| {
            text.split_ascii_whitespace().filter_map(Controller::from_v2).collect()
        });
        names.unwrap_or_default()
    }

    fn create(&self, path: &CgroupPath, _extent: Extent<'_>) -> Result<()> {
        let mut parent = self.root.clone();
        for name in path.lineage() {
            enable_controllers(&parent)?;
            let directory = name.under(&self.root);
            match std::fs::create_dir(&directory) {
                Ok(()) => {}
                // A file of the kernel's may have that name.
                Err(error)
                    if error.kind() == std::io::ErrorKind::AlreadyExists && directory.is_dir() => {}
                Err(error) => return Err(Error::file("make", directory, error)),
            }
            parent = directory;
        }
        Ok(())
    }

    fn directories(&self, path: &CgroupPath) -> Vec<PathBuf> {
        Some(path.under(&self.root)).filter(|directory| directory.is_dir()).into_iter().collect()
    }

    fn directory(&self, path: &CgroupPath, _controller: Controller) -> Option<PathBuf> {
        Some(path.under(&self.root)).filter(|directory| directory.is_dir())
    }

    fn enter_file(&self) -> &'static str {
        "cgroup.procs"
    }

    fn apply(&self, path: &CgroupPath, resources: &Resources) -> Result<()> {
        limits::apply(&path.under(&self.root), resources)
    }

    fn freeze(&self, path: &CgroupPath, limit: Duration) -> Result<bool> {
        let directory = path.under(&self.root);
        files::write(&directory.join("cgroup.freeze"), "1")?;
        wait_for_event(&directory, ("frozen", 1), limit)
    }

    fn thaw(&self, path: &CgroupPath) -> Result<()> {
        files::write_if_there(&path.under(&self.root).join("cgroup.freeze"), "0").map(drop)
    }

    /// cgroup.kill (Linux 5.14) kills the whole tree at once, forks included, frozen or not.
    fn kill(&self, path: &CgroupPath, limit: Duration) -> Result<Vec<Remaining>> {
        let directory = path.under(&self.root);
        let directories = self.directories(path);
        if directories.is_empty() {
            return Ok(Vec::new());
        }
        if !files::write_if_there(&directory.join("cgroup.kill"), "1")? {
            return kill::in_rounds(&directories, limit, |_| Ok(()), || Ok(()));
        }
        match wait_for_event(&directory, ("populated", 0), limit) {
            // As on v1: whoever enters it next must not stand still.
            Ok(true) => self.thaw(path).map(|()| Vec::new()),
            Ok(false) => Remaining::below(&directories),
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn oom_kills(&self, path: &CgroupPath) -> Result<u64> {
        let file = path.under(&self.root).join("memory.events");
        files::read(&file, |text| files::field(text, "oom_kill").unwrap_or(0))
    }

    fn oom_watch(&self, path: &CgroupPath) -> Result<OomWatch> {
        OomWatch::v2(&path.under(&self.root))
    }

    fn stats(&self, path: &CgroupPath) -> Result<Stats> {
        figures::stats(&path.under(&self.root))
    }

    fn usage(&self, path: &CgroupPath) -> Result<Usage> {
        figures::usage(&path.under(&self.root))
    }

    fn tasks(&self, path: &CgroupPath) -> Result<Option<u64>> {
        figures::tasks(&path.under(&self.root))
    }

    fn throttling(&self, path: &CgroupPath) -> Result<Option<Throttling>> {
        figures::throttling(&path.under(&self.root))
    }

    fn memory_stat(&self, path: &CgroupPath) -> Result<Vec<(String, u64)>> {
        files::read(&path.under(&self.root).join("memory.stat"), |text| {
            files::lines(text).map(|(key, value)| (key.to_owned(), value)).collect()
        })
    }

    fn memory_detail(&self, path: &CgroupPath) -> Result<Option<MemoryDetail>> {
        figures::memory_detail(&path.under(&self.root))
    }

    fn hugepages(&self, path: &CgroupPath, size: &str) -> Result<Option<Hugepages>> {
        figures::hugepages(&path.under(&self.root), size)
    }

    fn population(&self, path: &CgroupPath) -> Option<PathBuf> {
        Some(path.under(&self.root))
    }

    fn io(&self, path: &CgroupPath) -> Result<Vec<DeviceIo>> {
        figures::io(&path.under(&self.root))
    }

    fn pressures(&self, path: &CgroupPath) -> Result<Option<Pressures>> {
        figures::pressures(&path.under(&self.root))
    }
}

/// Passes on to the children of a cgroup what it has itself and does not pass on yet.
fn enable_controllers(directory: &Path) -> Result<()> {
    let words = |name: &str| {
        files::read(&directory.join(name), |text| {
            text.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>()
        })
    };
    let (have, pass) = (words("cgroup.controllers")?, words("cgroup.subtree_control")?);
    let file = directory.join("cgroup.subtree_control");
    for controller in have.iter().filter(|c| !pass.contains(c)) {
        if Controller::from_v2(controller).is_none() {
            continue;
        }
        // One at a time: a single one that cannot be enabled (cpu with real-time tasks about)
        // must not keep the others from it.
        match files::write(&file, &format!("+{controller}")) {
            Ok(()) => {}
            Err(_) if !matches!(controller.as_str(), "cpu" | "memory" | "pids") => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits until cgroup.events has this field at this value; the kernel raises POLLPRI on changes.
fn wait_for_event(directory: &Path, field: (&str, u64), limit: Duration) -> Result<bool> {
    let path = directory.join("cgroup.events");
    let file = std::fs::File::open(&path).map_err(|error| Error::file("open", &path, error))?;
    let end = Instant::now() + limit;
    loop {
        let mut text = [0; 512];
        let count = rustix::io::pread(&file, &mut text, 0)
            .map_err(|errno| Error::file("read", &path, errno))?;
        let text = String::from_utf8_lossy(&text[..count]);
        if files::field(&text, field.0) == Some(field.1) {
            return Ok(true);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        // In slices, in case a change came between the read and the poll.
        let slice = left.min(Duration::from_millis(100));
        let slice = Timespec { tv_sec: 0, tv_nsec: i64::from(slice.subsec_nanos()) };
        match poll(&mut [PollFd::new(&file, PollFlags::PRI)], Some(&slice)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Error::file("wait for", &path, errno)),
        }
    }
}
