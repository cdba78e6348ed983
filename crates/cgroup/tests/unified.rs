//! The core of v2 on the real kernel: entering, freezing, killing, removing.
//!
//! Any cgroup2 mount will do, also one that stands beside v1 without a useful controller.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use berth_cgroup::{Cgroup, Cgroups};
use berth_sys::mountinfo::Table;
use berth_sys::spawn::{Child, Exit, Spawn};
use berth_sys::{Kind, Signal, pipe, process};

const LONG: Duration = Duration::from_secs(20);

struct Own(Cgroup);

impl Own {
    /// Made by hand: `create` would pass controllers on from the root, which is the machine's.
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("/berth-test-unified-{}-{count}", std::process::id());
        std::fs::create_dir(root().join(&name[1..])).unwrap();
        Self(Cgroups::v2_at(root()).at(&name).unwrap())
    }

    fn spawn(&self, script: &str) -> Child {
        let shell = Spawn::new("/bin/sh").args(["-c", script]).env("PATH", "/usr/bin:/bin");
        shell.cgroups(self.0.enter_files()).spawn().unwrap()
    }

    fn events(&self) -> String {
        let dir = root().join(&self.0.path().as_str()[1..]);
        std::fs::read_to_string(dir.join("cgroup.events")).unwrap()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let left = self.0.kill(LONG).unwrap();
        let removed = self.0.remove(LONG);
        if !std::thread::panicking() {
            assert!(left.is_empty(), "{left:?}");
            removed.unwrap();
        }
    }
}

fn root() -> PathBuf {
    let table = Table::own().unwrap();
    let mount = table.mounts().iter().find(|mount| mount.kind == "cgroup2");
    mount.expect("no cgroup2 file system is mounted here").point.clone()
}

#[test]
fn a_forking_tree_dies_at_once() {
    let own = Own::new();
    let (read, write) = pipe::pipe().unwrap();
    let shell = Spawn::new("/bin/sh")
        .args(["-c", "(while :; do (sleep 0.01 &) ; done) & setsid sleep 1000 & echo up; wait"])
        .env("PATH", "/usr/bin:/bin")
        .stdout(write)
        .cgroups(own.0.enter_files());
    let mut child = shell.spawn().unwrap();
    File::from(read).read_exact(&mut [0; 3]).unwrap();
    let begin = Instant::now();
    assert_eq!(own.0.kill(LONG).unwrap(), []);
    eprintln!("kill of a forking tree: {:?}", begin.elapsed());
    assert!(own.0.processes().unwrap().is_empty());
    assert_eq!(child.wait(LONG).unwrap(), Some(Exit::Signal(Signal::KILL)));
}

#[test]
fn frozen_members_stand_still_and_die_all_the_same() {
    let own = Own::new();
    let mut child = own.spawn("while :; do :; done");
    assert!(own.0.freeze(LONG).unwrap());
    assert!(own.events().contains("frozen 1"));
    own.0.thaw().unwrap();
    assert!(own.0.freeze(LONG).unwrap());
    assert_eq!(own.0.kill(LONG).unwrap(), []);
    assert_eq!(child.wait(LONG).unwrap(), Some(Exit::Signal(Signal::KILL)));
}

#[test]
fn a_zombie_holds_neither_the_kill_nor_the_removal() {
    let own = Own::new();
    let mut child = own.spawn("exec sleep 1000");
    assert_eq!(own.0.kill(LONG).unwrap(), []);
    assert_eq!(process::stat(child.pid()).unwrap().state, process::State::Zombie);
    own.0.remove(LONG).unwrap();
    assert!(!own.0.exists());
    child.wait(LONG).unwrap().unwrap();
}

#[test]
fn one_by_one_where_the_kernel_has_no_kill() {
    // A tree of links to the real files, without cgroup.kill: as before Linux 5.14.
    let own = Own::new();
    let mut child = own.spawn("sleep 1000 & sleep 1000 & wait");
    let fake = tempfile::tempdir().unwrap();
    let (real, copy) = (root().join(&own.0.path().as_str()[1..]), fake.path().join("c"));
    std::fs::create_dir(&copy).unwrap();
    for name in ["cgroup.procs", "cgroup.events"] {
        std::os::unix::fs::symlink(real.join(name), copy.join(name)).unwrap();
    }
    let old = Cgroups::v2_at(fake.path()).at("/c").unwrap();
    assert_eq!(old.kill(LONG).unwrap(), []);
    assert!(own.0.processes().unwrap().is_empty());
    assert_eq!(child.wait(LONG).unwrap(), Some(Exit::Signal(Signal::KILL)));
}

#[test]
fn a_populated_one_is_not_removed() {
    let own = Own::new();
    let mut child = own.spawn("exec sleep 1000");
    assert_eq!(own.0.remove(Duration::from_millis(5)).unwrap_err().kind(), Kind::Busy);
    child.kill(Signal::KILL).unwrap();
    child.wait(LONG).unwrap().unwrap();
    own.0.remove(LONG).unwrap();
}
