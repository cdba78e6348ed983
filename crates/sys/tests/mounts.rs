//! Mounts and namespaces on the real kernel, each test in a mount namespace of its own.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_sys::beneath::Beneath;
use berth_sys::mountinfo::Table;
use berth_sys::mounts::{self, Attributes, Flags, Options, Overlay, Propagation};
use berth_sys::namespace::{self, Namespace};
use berth_sys::spawn::{Exit, Spawn};
use berth_sys::{Kind, fork, pipe};

const LONG: Duration = Duration::from_secs(60);

/// Runs the test again in a private mount namespace; true for the one inside.
fn inside(test: &str) -> bool {
    if std::env::var_os("BERTH_INSIDE").is_some() {
        return true;
    }
    let (read, write) = pipe::pipe().unwrap();
    let errors = write.try_clone().unwrap();
    let mut child = Spawn::new("/usr/bin/unshare")
        .args(["--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env("BERTH_INSIDE", "1")
        .stdout(write)
        .stderr(errors)
        .spawn()
        .unwrap();
    let mut text = String::new();
    File::from(read).read_to_string(&mut text).unwrap();
    assert_eq!(child.wait(LONG).unwrap(), Some(Exit::Code(0)), "{text}");
    assert!(text.contains("1 passed"), "{text}");
    false
}

/// A tmpfs on a directory of its own, removed with it.
struct Scratch(PathBuf, #[expect(dead_code, reason = "held for its drop")] tempfile::TempDir);

impl Drop for Scratch {
    fn drop(&mut self) {
        mounts::unmount_below(&self.0).unwrap();
    }
}

impl Scratch {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        mounts::mount("tmpfs", &path, "tmpfs", Flags::empty(), "size=4m").unwrap();
        Self(path, dir)
    }

    fn dir(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }
}

fn table() -> Table {
    Table::own().unwrap()
}

#[test]
fn a_removal_enters_nothing_that_is_mounted() {
    if !inside("a_removal_enters_nothing_that_is_mounted") {
        return;
    }
    let scratch = Scratch::new();
    let (theirs, file) = (scratch.dir("theirs"), scratch.0.join("file"));
    fs::write(theirs.join("data"), "x").unwrap();
    fs::write(&file, "y").unwrap();
    let root = Beneath::open_root(&scratch.0).unwrap();
    let place = scratch.dir("tree/a/b");
    assert!(!mounts::is_mounted(&place).unwrap());
    assert!(!mounts::is_mounted(place.join("absent")).unwrap());
    // Of the same file system, so only the mount tells it apart.
    mounts::bind(&theirs, &place).unwrap();
    assert!(mounts::is_mounted(&place).unwrap() && !mounts::is_mounted(&theirs).unwrap());
    for tree in ["tree", "tree/a", "tree/a/b"] {
        assert_eq!(root.remove_all(tree).unwrap_err().kind(), Kind::Busy, "{tree}");
    }
    mounts::unmount(&place).unwrap();
    let name = scratch.dir("tree").join("name");
    fs::write(&name, "").unwrap();
    mounts::bind(&file, &name).unwrap();
    assert_eq!(root.remove_all("tree").unwrap_err().kind(), Kind::Busy);
    mounts::unmount(&name).unwrap();
    root.remove_all("tree").unwrap();
    assert!(!scratch.0.join("tree").exists());
    assert_eq!(fs::read_to_string(theirs.join("data")).unwrap(), "x");
    assert_eq!(fs::read_to_string(&file).unwrap(), "y");
}

#[test]
fn binds_flags_and_propagation() {
    if !inside("binds_flags_and_propagation") {
        return;
    }
    let scratch = Scratch::new();
    let (a, b, c) = (scratch.dir("a"), scratch.dir("b"), scratch.dir("with space"));
    fs::write(a.join("file"), "x").unwrap();
    mounts::mount("tmpfs", scratch.dir("a/below"), "tmpfs", Flags::NODEV, "").unwrap();
    mounts::bind(&a, &b).unwrap();
    assert!(b.join("file").exists() && !table().is_mount_point(b.join("below")));
    mounts::bind_recursive(&a, &c).unwrap();
    assert!(table().is_mount_point(c.join("below")), "also with a space in its name");
    mounts::remount_bind(&b, Flags::RDONLY | Flags::NOSUID).unwrap();
    assert!(table().at(&b).unwrap().read_only());
    assert!(fs::write(b.join("new"), "").is_err());
    fs::write(a.join("new"), "").unwrap();
    for propagation in [Propagation::Shared, Propagation::Slave, Propagation::Private] {
        mounts::set_propagation(&b, Propagation::Shared, false).unwrap();
        mounts::set_propagation(&b, propagation, false).unwrap();
        // A slave without a master is private (mount_namespaces(7)).
        let expected =
            if propagation == Propagation::Slave { Propagation::Private } else { propagation };
        assert_eq!(table().at(&b).unwrap().propagation(), expected);
    }
    let moved = scratch.dir("moved");
    mounts::move_to(&b, &moved).unwrap();
    assert!(!table().is_mount_point(&b) && table().is_mount_point(&moved));
    assert_eq!(mounts::unmount(&b).unwrap_err().kind(), Kind::Invalid);
    let held = File::open(moved.join("file")).unwrap();
    assert_eq!(mounts::unmount(&moved).unwrap_err().kind(), Kind::Busy);
    mounts::detach(&moved).unwrap();
    drop(held);
    mounts::unmount_all(&moved).unwrap();
    mounts::unmount_all(scratch.0.join("no/such/path")).unwrap();
}

#[test]
fn a_whole_tree_is_unmounted_the_deepest_first() {
    if !inside("a_whole_tree_is_unmounted_the_deepest_first") {
        return;
    }
    let scratch = Scratch::new();
    let top = scratch.dir("top");
    let neighbour = scratch.dir("top-neighbour");
    mounts::mount("tmpfs", &neighbour, "tmpfs", Flags::empty(), "").unwrap();
    for path in ["top", "top/a", "top/a/b", "top/a/b", "top/c"] {
        mounts::mount("tmpfs", scratch.dir(path), "tmpfs", Flags::empty(), "").unwrap();
    }
    // And one more at the top, which hides all of these.
    mounts::mount("tmpfs", &top, "tmpfs", Flags::empty(), "").unwrap();
    assert!(mounts::unmount_below(&top).unwrap() >= 2);
    assert!(table().below(&top).is_empty());
    assert!(table().is_mount_point(&neighbour));
    assert_eq!(mounts::unmount_below(&top).unwrap(), 0);
}

#[test]
fn a_link_in_the_place_of_a_mount_is_not_followed() {
    if !inside("a_link_in_the_place_of_a_mount_is_not_followed") {
        return;
    }
    let scratch = Scratch::new();
    let real = scratch.dir("real");
    mounts::mount("tmpfs", &real, "tmpfs", Flags::empty(), "").unwrap();
    std::os::unix::fs::symlink(&real, scratch.0.join("link")).unwrap();
    mounts::unmount_all(scratch.0.join("link")).unwrap();
    assert!(table().is_mount_point(&real));
}

#[test]
fn options_of_a_bundle_become_mounts() {
    if !inside("options_of_a_bundle_become_mounts") {
        return;
    }
    let scratch = Scratch::new();
    let (a, b, c) = (scratch.dir("a"), scratch.dir("b"), scratch.dir("c"));
    mounts::mount("tmpfs", scratch.dir("a/below"), "tmpfs", Flags::empty(), "").unwrap();
    let parse = |list: &[&str]| Options::parse(list);
    mounts::mount_as("none", &a, &b, &parse(&["rbind", "rro", "rprivate"])).unwrap();
    assert!(fs::write(b.join("below/file"), "").is_err(), "read-only below as well");
    fs::write(a.join("below/file"), "").unwrap();
    let options = parse(&["nosuid", "noexec", "mode=700", "size=64k", "shared"]);
    mounts::mount_as("tmpfs", "tmpfs", &c, &options).unwrap();
    let mount = table().at(&c).unwrap().clone();
    assert!(mount.options.contains("nosuid") && mount.options.contains("noexec"));
    assert!(mount.super_options.contains("size=64k") && mount.super_options.contains("mode=700"));
    assert_eq!(mount.propagation(), Propagation::Shared);
    let error = mounts::mount_as("bind", &a, &b, &parse(&["bind", "size=1"])).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    let error = mounts::mount_as("no-such-fs", &a, &b, &parse(&[])).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
}

#[test]
fn attributes_of_a_tree_change_at_once() {
    if !inside("attributes_of_a_tree_change_at_once") {
        return;
    }
    let scratch = Scratch::new();
    let top = scratch.dir("top");
    mounts::mount("tmpfs", &top, "tmpfs", Flags::empty(), "").unwrap();
    mounts::mount("tmpfs", scratch.dir("top/below"), "tmpfs", Flags::empty(), "").unwrap();
    let attributes = Attributes {
        read_only: Some(true),
        nodev: Some(true),
        propagation: Some(Propagation::Shared),
        ..Attributes::default()
    };
    mounts::set_attributes(rustix::fs::CWD, &top, &attributes, true).unwrap();
    for path in [top.clone(), top.join("below")] {
        let mount = table().at(&path).unwrap().clone();
        assert!(mount.read_only() && mount.options.contains("nodev"));
        assert_eq!(mount.propagation(), Propagation::Shared);
    }
    let writable = Attributes { read_only: Some(false), ..Attributes::default() };
    mounts::set_attributes(rustix::fs::CWD, &top, &writable, false).unwrap();
    assert!(!table().at(&top).unwrap().read_only());
    assert!(table().at(top.join("below")).unwrap().read_only());
}

/// Starts a process in a user namespace that shows the node's id 0 as 100000 and so on.
fn mapped_user_namespace() -> std::os::fd::OwnedFd {
    let (read, write) = pipe::pipe().unwrap();
    let mut maker = Spawn::new("/usr/bin/unshare")
        .args(["--user", "/bin/sh", "-c", "echo up; exec sleep 1000"])
        .env("PATH", "/usr/bin:/bin")
        .stdout(write)
        .spawn()
        .unwrap();
    File::from(read).read_exact(&mut [0; 3]).unwrap();
    let proc = PathBuf::from(format!("/proc/{}", maker.pid().as_raw_pid()));
    fs::write(proc.join("uid_map"), "0 100000 65536\n").unwrap();
    fs::write(proc.join("gid_map"), "0 100000 65536\n").unwrap();
    let namespace = namespace::open(proc.join("ns/user")).unwrap();
    maker.kill(berth_sys::Signal::KILL).unwrap();
    maker.wait(LONG).unwrap().unwrap();
    namespace
}

#[test]
fn a_copied_mount_is_mapped_and_then_attached() {
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;
    if !inside("a_copied_mount_is_mapped_and_then_attached") {
        return;
    }
    let scratch = Scratch::new();
    let (a, b) = (scratch.dir("a"), scratch.dir("b"));
    fs::write(a.join("file"), "").unwrap();
    let copy = mounts::copy(&a, true).unwrap();
    let namespace = mapped_user_namespace();
    let attributes =
        Attributes { user_namespace: Some(namespace.as_fd()), ..Attributes::default() };
    mounts::set_attributes(&copy, "", &attributes, true).unwrap();
    assert!(!table().is_mount_point(&b), "nobody sees it yet");
    mounts::attach(&copy, &b).unwrap();
    assert_eq!(b.join("file").metadata().unwrap().uid(), 100_000);
    assert_eq!(a.join("file").metadata().unwrap().uid(), 0);
}

#[test]
fn overlays_of_many_layers_mount() {
    if !inside("overlays_of_many_layers_mount") {
        return;
    }
    let scratch = Scratch::new();
    let layers: Vec<PathBuf> = (0..100)
        .map(|n| {
            // Together more than the page that mount(2) takes.
            let dir = scratch.dir(&format!("a-layer-with-a-rather-long-name-{n}"));
            fs::write(dir.join(format!("file{n}")), "").unwrap();
            fs::write(dir.join("top"), n.to_string()).unwrap();
            dir
        })
        .collect();
    let (upper, work, target) = (scratch.dir("upper"), scratch.dir("work"), scratch.dir("merged"));
    let overlay = Overlay {
        lower: layers,
        upper: Some((upper.clone(), work)),
        volatile: true,
        options: vec!["index=off".into()],
    };
    overlay.mount(&target).unwrap();
    assert_eq!(fs::read_dir(&target).unwrap().count(), 101);
    assert_eq!(fs::read_to_string(target.join("top")).unwrap(), "0", "the first is the topmost");
    fs::write(target.join("new"), "").unwrap();
    assert!(upper.join("new").exists());
    assert!(table().at(&target).unwrap().super_options.contains("volatile"));
    let error = Overlay { lower: vec!["/no/such".into()], ..overlay }.mount(&target).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
}

#[test]
fn a_pinned_namespace_outlives_its_maker() {
    if !inside("a_pinned_namespace_outlives_its_maker") {
        return;
    }
    let scratch = Scratch::new();
    let pin = scratch.0.join("uts");
    // Only programs of one thread may fork: the test harness has more.
    assert_eq!(fork::fork(|| 0).unwrap_err().kind(), Kind::Invalid);
    let mut maker =
        Spawn::new("/usr/bin/unshare").args(["--uts", "/bin/sleep", "1000"]).spawn().unwrap();
    let source = format!("/proc/{}/ns/uts", maker.pid().as_raw_pid());
    let own = namespace::open_own(Namespace::Uts).unwrap();
    while namespace::same("/proc/self/ns/uts", &source).unwrap() {
        std::thread::yield_now();
    }
    namespace::pin(&source, &pin).unwrap();
    maker.kill(berth_sys::Signal::KILL).unwrap();
    maker.wait(LONG).unwrap().unwrap();
    assert!(namespace::is_pinned(&pin).unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            namespace::enter(namespace::open(&pin).unwrap(), Namespace::Uts).unwrap();
            assert!(namespace::same("/proc/thread-self/ns/uts", &pin).unwrap());
            namespace::enter(&own, Namespace::Uts).unwrap();
        });
    });
    // A pin over a pin, as a second try makes it.
    namespace::pin("/proc/self/ns/uts", &pin).unwrap();
    assert!(namespace::same("/proc/self/ns/uts", &pin).unwrap());
    namespace::unpin(&pin).unwrap();
    namespace::unpin(&pin).unwrap();
    assert!(!pin.exists() && !namespace::is_pinned(&pin).unwrap());
    assert!(!namespace::is_pinned(Path::new("/etc/passwd")).unwrap());
}

#[test]
fn a_failed_pin_leaves_no_file() {
    if !inside("a_failed_pin_leaves_no_file") {
        return;
    }
    let scratch = Scratch::new();
    let pin = scratch.0.join("pin");
    assert_eq!(namespace::pin("/no/such/ns", &pin).unwrap_err().kind(), Kind::NotFound);
    assert!(!pin.exists());
}
