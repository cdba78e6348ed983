//! The cgroup parent of a node: one cgroup in every hierarchy, below which everything that the
//! node makes must stay, and which goes when the node does.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::guest::Driver;
use crate::network::run;

const ROOT: &str = "/sys/fs/cgroup";

/// Every name that a node has on the machine is this, the pid of the test, and a number.
pub(crate) const PREFIX: &str = "berth-test-";

/// A node's cgroup parent; removed on drop, with everything in it.
#[derive(Debug)]
pub struct Parent {
    name: String,
    roots: Vec<PathBuf>,
    /// Where systemd makes cgroups: the slice of all pods.
    slice: Option<String>,
}

impl Parent {
    /// Makes the cgroup in every hierarchy (v1) or in the one there is (v2).
    ///
    /// # Errors
    /// If a cgroup cannot be made.
    pub fn create(name: &str) -> Result<Self> {
        // A dash in a slice's name is a level.
        let slice = format!("{}.slice", name.replace('-', "_"));
        let slice = (Driver::of_tests() == Driver::Systemd).then_some(slice);
        let parent = Self { name: name.to_owned(), roots: hierarchies()?, slice };
        for root in &parent.roots {
            parent.add(root, Path::new(name))?;
        }
        Ok(parent)
    }

    /// Removes it with everything in it, and makes it again, as a reboot does.
    ///
    /// # Errors
    /// As [`Parent::remove`] and [`Parent::create`].
    pub fn renew(&self) -> Result<()> {
        self.remove()?;
        self.roots.iter().try_for_each(|root| self.add(root, Path::new(&self.name)))
    }

    /// Makes a cgroup below, in every hierarchy, as the kubelet makes one for a pod; returns its
    /// path from the hierarchies' root.
    ///
    /// # Errors
    /// If one cannot be made.
    pub fn make(&self, below: &str) -> Result<String> {
        if let Some(slice) = &self.slice {
            return make_slice(slice, below);
        }
        for root in &self.roots {
            let mut path = PathBuf::from(&self.name);
            for part in below.split('/') {
                path.push(part);
                if !root.join(&path).exists() {
                    self.add(root, &path)?;
                }
            }
        }
        Ok(format!("/{}/{below}", self.name))
    }

    /// Removes a cgroup that [`Parent::make`] made, and those above it.
    ///
    /// # Errors
    /// If one is not empty.
    pub fn unmake(&self, below: &str) -> Result<()> {
        if let Some(slice) = &self.slice {
            let mut names = nested(slice, below);
            names.reverse();
            return run(Command::new("systemctl").arg("stop").args(names), b"").map(drop);
        }
        for root in &self.roots {
            let mut path = root.join(&self.name).join(below);
            for _ in below.split('/') {
                fs::remove_dir(&path).with_context(|| format!("remove {}", path.display()))?;
                path.pop();
            }
        }
        Ok(())
    }

    fn add(&self, root: &Path, name: &Path) -> Result<()> {
        let path = root.join(name);
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        if root == Path::new(ROOT) {
            return delegate(root).and_then(|()| delegate(&path));
        }
        for file in ["cpuset.cpus", "cpuset.mems"] {
            // Without these two a v1 cpuset takes no process.
            let above = path.parent().map(|above| above.join(file));
            if let Some(above) = above.filter(|above| above.exists()) {
                let value = fs::read_to_string(&above)?;
                fs::write(path.join(file), value.trim())
                    .with_context(|| format!("fill in {}", path.join(file).display()))?;
            }
        }
        Ok(())
    }

    /// The path that Berth's configuration names, `/NAME`.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/{}", self.name)
    }

    /// The slice of all pods, where systemd makes cgroups.
    #[must_use]
    pub fn slice(&self) -> Option<&str> {
        self.slice.as_deref()
    }

    /// The units of systemd's that are the node's.
    #[must_use]
    pub fn units(&self) -> BTreeSet<String> {
        let Some(stem) = self.slice.as_ref().and_then(|slice| slice.strip_suffix(".slice")) else {
            return BTreeSet::new();
        };
        let mut list = Command::new("systemctl");
        list.args(["list-units", "--all", "--plain", "--no-legend", "--no-pager", "--full"]);
        list.args([format!("{stem}*"), "berth-*".to_owned()]);
        let said = run(&mut list, b"").unwrap_or_default();
        let said = String::from_utf8_lossy(&said).into_owned();
        said.lines().filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
    }

    /// Kills everything in it, where its processes do not end with the node's PID namespace.
    pub fn kill(&self) {
        if self.slice.is_some() {
            for top in self.tops(&self.roots[0]) {
                let _ = fs::write(top.join("cgroup.kill"), "1");
            }
        }
    }

    /// The highest of its directories in a hierarchy.
    fn tops(&self, root: &Path) -> Vec<PathBuf> {
        let names = [Some(&self.name), self.slice.as_ref()];
        names.into_iter().flatten().map(|name| root.join(name)).collect()
    }

    /// The name without a slash.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cgroup's directory in one v1 controller, or the only one on v2.
    #[must_use]
    pub fn dir(&self, controller: &str) -> PathBuf {
        let root = self.roots.iter().find(|root| root.ends_with(controller));
        root.unwrap_or(&self.roots[0]).join(&self.name)
    }

    /// Every cgroup below, as `CONTROLLER:PATH` relative to the parent.
    #[must_use]
    pub fn below(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for root in &self.roots {
            let controller = root.file_name().unwrap_or_default().to_string_lossy();
            for top in self.tops(root) {
                for dir in descendants(&top) {
                    if let Ok(path) = dir.strip_prefix(&top) {
                        found.insert(format!("{controller}:{}", path.display()));
                    }
                }
            }
        }
        found
    }

    /// The processes in the parent and below, in any hierarchy.
    #[must_use]
    pub fn processes(&self) -> BTreeSet<u32> {
        let mut found = BTreeSet::new();
        for root in &self.roots {
            let tops = self.tops(root);
            let below: Vec<_> = tops.iter().flat_map(|top| descendants(top)).collect();
            for dir in below.into_iter().chain(tops) {
                let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
                found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
            }
        }
        found
    }

    /// Removes the cgroup everywhere; its processes must be dying.
    ///
    /// # Errors
    /// If one is still there after some seconds.
    pub fn remove(&self) -> Result<()> {
        if let Some(slice) = &self.slice {
            run(Command::new("systemctl").args(["stop", slice]), b"")?;
        }
        let deadline = Instant::now() + crate::patience::here(Duration::from_secs(5));
        loop {
            let mut left = Vec::new();
            for root in &self.roots {
                let tops = self.tops(root);
                let mut dirs: Vec<_> = tops.iter().flat_map(|top| descendants(top)).collect();
                dirs.reverse();
                for dir in dirs.into_iter().chain(tops) {
                    let frozen = dir.join("freezer.state");
                    if frozen.exists() {
                        let _ = fs::write(&frozen, "THAWED");
                    }
                    if dir.exists() && fs::remove_dir(&dir).is_err() {
                        left.push(dir);
                    }
                }
            }
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("cgroups that do not go away: {left:?}; processes {:?}", self.processes());
            }
            // The kernel announces nothing when a dying process leaves its last cgroup.
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("testkit: LEAK: {error:#}");
        }
    }
}

/// The slices that a path stands for: `a/b` in `n.slice` is `n-a.slice` and `n-a-b.slice`.
fn nested(slice: &str, below: &str) -> Vec<String> {
    let mut stem = slice.trim_end_matches(".slice").to_owned();
    let mut deeper = |part: &str| {
        stem = format!("{stem}-{part}");
        format!("{stem}.slice")
    };
    below.split('/').map(&mut deeper).collect()
}

/// Makes a slice as the kubelet does; returns its path.
fn make_slice(slice: &str, below: &str) -> Result<String> {
    const MANAGER: [&str; 3] = [
        "org.freedesktop.systemd1",
        "/org/freedesktop/systemd1",
        "org.freedesktop.systemd1.Manager",
    ];
    let names = nested(slice, below);
    let path = format!("/{slice}/{}", names.join("/"));
    let mut call = Command::new("busctl");
    call.arg("call").args(MANAGER).args(["StartTransientUnit", "ssa(sv)a(sa(sv))"]);
    run(call.args(names.last()).args(["fail", "0", "0"]), b"")?;
    let deadline = Instant::now() + crate::patience::here(Duration::from_secs(5));
    while !Path::new(&format!("{ROOT}{path}")).exists() {
        if Instant::now() > deadline {
            bail!("systemd does not make {path}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(path)
}

/// Whether a name is a node's whose test no longer runs.
pub(crate) fn abandoned(name: &str) -> bool {
    let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
    let pid = pid.and_then(|pid| pid.parse::<u32>().ok());
    pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

/// Removes the cgroups of nodes whose test was killed before it could.
pub(crate) fn sweep() {
    for root in hierarchies().unwrap_or_default() {
        for entry in fs::read_dir(&root).into_iter().flatten().flatten() {
            if abandoned(&entry.file_name().to_string_lossy()) {
                let mut dirs = descendants(&entry.path());
                dirs.reverse();
                for dir in dirs.into_iter().chain([entry.path()]) {
                    let _ = fs::remove_dir(dir);
                }
            }
        }
    }
}

/// The root of every hierarchy that a node uses.
fn hierarchies() -> Result<Vec<PathBuf>> {
    if Path::new(ROOT).join("cgroup.controllers").exists() {
        return Ok(vec![PathBuf::from(ROOT)]);
    }
    let mut roots = BTreeSet::new();
    for entry in fs::read_dir(ROOT).with_context(|| format!("list {ROOT}"))? {
        // `cpu -> cpu,cpuacct` on machines that mount the two together.
        let path = fs::canonicalize(entry?.path())?;
        if path.join("cgroup.procs").exists() && !path.join("cgroup.controllers").exists() {
            roots.insert(path);
        }
    }
    if roots.is_empty() {
        bail!("no cgroup hierarchy is mounted below {ROOT}");
    }
    Ok(roots.into_iter().collect())
}

/// Hands every controller of a v2 cgroup to its children.
fn delegate(dir: &Path) -> Result<()> {
    let controllers = fs::read_to_string(dir.join("cgroup.controllers"))?;
    for controller in controllers.split_whitespace() {
        fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"))
            .with_context(|| format!("delegate {controller} below {}", dir.display()))?;
    }
    Ok(())
}

/// Every directory below, parents before children.
fn descendants(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else { return found };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let below = descendants(&entry.path());
            found.push(entry.path());
            found.extend(below);
        }
    }
    found
}
