//! Paths that must not leave their root.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use berth_sys::Kind;
use berth_sys::beneath::{Beneath, Follow, Node, is_escape};
use berth_sys::disk;
use rustix::fs::OFlags;

/// A root with a neighbour that nothing may reach, and ways out of every kind.
struct Trap {
    dir: tempfile::TempDir,
}

impl Trap {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("sub")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/secret"), "secret").unwrap();
        symlink("../outside", root.join("up")).unwrap();
        symlink(dir.path().join("outside"), root.join("absolute")).unwrap();
        symlink("sub", root.join("fine")).unwrap();
        symlink("/sub", root.join("rooted")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        symlink("/proc/self/root", root.join("magic")).unwrap();
        Self { dir }
    }

    fn root(&self) -> Beneath {
        Beneath::open_root(self.dir.path().join("root")).unwrap()
    }

    fn inside(&self, path: &str) -> std::path::PathBuf {
        self.dir.path().join("root").join(path)
    }

    /// The neighbour holds what it held.
    fn assert_unharmed(&self) {
        let names: Vec<_> = fs::read_dir(self.dir.path().join("outside")).unwrap().collect();
        assert_eq!(names.len(), 1);
        let secret = self.dir.path().join("outside/secret");
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
        assert_eq!(secret.metadata().unwrap().nlink(), 1);
        let names: Vec<_> = fs::read_dir(self.dir.path()).unwrap().collect();
        assert_eq!(names.len(), 2, "nothing beside the root");
    }
}

const WAYS_OUT: [&str; 6] = [
    "up/new",
    "absolute/new",
    "sub/../../outside/new",
    "../outside/new",
    "sub/../../../../../../../../tmp/new",
    "/../outside/new",
];

#[test]
fn no_way_leads_out_whatever_is_done() {
    let trap = Trap::new();
    for follow in [Follow::No, Follow::Within, Follow::AsRoot] {
        let root = trap.root().following(follow);
        for way in WAYS_OUT {
            // Each may fail or end up inside; none may reach the neighbour.
            let _ = root.create(way, 0o600).map(drop);
            let _ = root.mkdir(way, 0o700);
            let _ = root.mkdir_all(way, 0o700);
            let _ = root.symlink("x", way);
            let _ = root.mknod(way, Node::Fifo, 0o600);
            let _ = root.hard_link("fine", way);
            let _ = root.rename("fine", way);
            let secret = way.replace("new", "secret");
            let _ = root.unlink(&secret);
            let _ = root.chmod(&secret, 0o777);
            let _ = root.chown(&secret, 1, 1);
            let _ = root.hard_link(&secret, "sub/stolen");
            let _ = root.rename(&secret, "sub/stolen");
            let _ = root.remove_all(way.replace("/new", ""));
            if let Ok(fd) = root.open(&secret, OFlags::WRONLY | OFlags::TRUNC, 0) {
                let _ = File::from(fd).write_all(b"overwritten");
            }
        }
    }
    trap.assert_unharmed();
    assert!(!trap.inside("sub/stolen").exists());
}

#[test]
fn the_rules_for_symbolic_links_differ() {
    let trap = Trap::new();
    let made = |follow, path: &str| trap.root().following(follow).create(path, 0o600).map(drop);
    made(Follow::Within, "fine/a").unwrap();
    assert!(trap.inside("sub/a").exists());
    assert!(is_escape(&made(Follow::No, "fine/b").unwrap_err()));
    // An absolute link: out of the root, or from it, as a chroot would see it.
    assert!(is_escape(&made(Follow::Within, "rooted/c").unwrap_err()));
    made(Follow::AsRoot, "rooted/c").unwrap();
    assert!(trap.inside("sub/c").exists());
    for follow in [Follow::Within, Follow::AsRoot] {
        assert!(is_escape(&made(follow, "loop/d").unwrap_err()));
        let error = made(follow, "magic/tmp/d").unwrap_err();
        assert!(is_escape(&error) || error.is_not_found(), "{error}");
    }
    trap.assert_unharmed();
}

#[test]
fn the_last_part_is_never_followed() {
    let trap = Trap::new();
    let root = trap.root();
    root.symlink("../outside/secret", "link").unwrap();
    assert_eq!(root.create("link", 0o600).unwrap_err().kind(), Kind::Exists);
    assert_eq!(root.chmod("link", 0o777).unwrap_err().kind(), Kind::Invalid);
    root.chown("link", 7, 8).unwrap();
    let data = trap.inside("link").symlink_metadata().unwrap();
    assert_eq!((data.uid(), data.gid()), (7, 8), "the link itself");
    root.set_xattr("link", OsStr::new("trusted.mark"), b"1").unwrap();
    assert_eq!(root.xattrs("link").unwrap(), ["trusted.mark"]);
    assert_eq!(root.read_link("link").unwrap(), Path::new("../outside/secret"));
    root.unlink("link").unwrap();
    trap.assert_unharmed();
}

#[test]
fn everything_a_layer_can_hold_is_made_as_told() {
    let trap = Trap::new();
    let root = trap.root();
    let mut file = File::from(root.create("sub/file", 0o640).unwrap());
    file.write_all(b"text").unwrap();
    root.hard_link("sub/file", "sub/second").unwrap();
    root.mknod("sub/null", Node::Char(1, 3), 0o666).unwrap();
    root.mknod("sub/disk", Node::Block(7, 200), 0o600).unwrap();
    root.mknod("sub/fifo", Node::Fifo, 0o600).unwrap();
    root.chmod("sub/file", 0o4755).unwrap();
    root.chown("sub/null", 1000, 1001).unwrap();
    let time = rustix::fs::Timespec { tv_sec: 12345, tv_nsec: 678 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    root.set_times("sub/file", &times).unwrap();
    let data = trap.inside("sub/file").metadata().unwrap();
    assert_eq!((data.nlink(), data.mode() & 0o7777), (2, 0o4755));
    assert_eq!((data.mtime(), data.mtime_nsec()), (12345, 678));
    let null = trap.inside("sub/null").metadata().unwrap();
    assert!(null.file_type().is_char_device());
    assert_eq!((null.rdev(), null.uid(), null.gid()), (rustix::fs::makedev(1, 3), 1000, 1001));
    assert!(trap.inside("sub/disk").metadata().unwrap().file_type().is_block_device());
    assert!(trap.inside("sub/fifo").metadata().unwrap().file_type().is_fifo());
    root.rename("sub/second", "moved").unwrap();
    assert!(root.stat("sub/second").unwrap().is_none());
    assert_eq!(root.stat("moved").unwrap().unwrap().st_size, 4);
    assert_eq!(root.stat("no/such").unwrap().map(drop), None);
}

#[test]
fn extended_attributes_of_any_size() {
    let trap = Trap::new();
    let root = trap.root();
    drop(root.create("f", 0o600).unwrap());
    let (small, large) = (OsStr::new("trusted.small"), OsStr::new("trusted.large"));
    assert_eq!(root.xattr("f", small).unwrap(), None);
    assert!(root.xattrs("f").unwrap().is_empty());
    root.set_xattr("f", small, b"").unwrap();
    let long = vec![7; 2000];
    root.set_xattr("f", large, &long).unwrap();
    assert_eq!(root.xattr("f", small).unwrap(), Some(Vec::new()));
    assert_eq!(root.xattr("f", large).unwrap(), Some(long));
    assert_eq!(root.xattrs("f").unwrap().len(), 2);
    root.remove_xattr("f", large).unwrap();
    root.remove_xattr("f", large).unwrap();
    assert_eq!(root.xattrs("f").unwrap(), ["trusted.small"]);
}

#[test]
fn parents_are_made_once() {
    let trap = Trap::new();
    let root = trap.root();
    assert!(root.mkdir_all("a/b/c", 0o700).unwrap());
    assert!(!root.mkdir_all("/a/b/c/", 0o755).unwrap());
    assert_eq!(trap.inside("a/b").metadata().unwrap().permissions().mode() & 0o777, 0o700);
    assert!(!root.mkdir_all("", 0o700).unwrap(), "the root itself is there");
    let mut names = root.list("a").unwrap();
    names.extend(root.list("").unwrap());
    assert!(names.contains(&"b".into()) && names.contains(&"sub".into()));
    let sub = root.sub("a/b").unwrap();
    assert_eq!(sub.list("").unwrap(), ["c"]);
    assert!(is_escape(&sub.following(Follow::Within).sub("../..").unwrap_err()));
}

#[test]
fn removing_a_tree_does_not_follow_links_and_goes_deep() {
    let trap = Trap::new();
    let root = trap.root();
    root.mkdir_all("tree/x", 0o700).unwrap();
    symlink(trap.dir.path().join("outside"), trap.inside("tree/x/out")).unwrap();
    let mut deep = String::from("tree");
    for _ in 0..200 {
        deep.push_str("/d");
    }
    root.mkdir_all(&deep, 0o700).unwrap();
    for n in 0..300 {
        drop(root.create(format!("tree/x/f{n}"), 0o600).unwrap());
    }
    root.remove_all("tree").unwrap();
    root.remove_all("tree").unwrap();
    root.remove_all("fine").unwrap();
    assert!(trap.inside("sub").exists(), "only the link went");
    assert!(!trap.inside("tree").exists() && !trap.inside("fine").exists());
    trap.assert_unharmed();
}

/// One thread swaps a directory for a link to the outside, as fast as it can, while another writes
/// through that name: what is made must never land outside.
#[test]
fn a_racing_rename_does_not_open_a_way_out() {
    let trap = Trap::new();
    let (dir, link) = (trap.inside("dir"), trap.inside("link"));
    fs::create_dir(&dir).unwrap();
    symlink("../outside", &link).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            while !done.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(rustix::fs::CWD, &dir, rustix::fs::CWD, &link, flags)
                    .unwrap();
            }
        });
        for follow in [Follow::Within, Follow::AsRoot] {
            let root = trap.root().following(follow);
            for n in 0..2000 {
                let _ = root.create(format!("dir/{follow:?}{n}"), 0o600).map(drop);
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    trap.assert_unharmed();
}

#[test]
fn usage_counts_blocks_once_and_stays_on_its_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    fs::create_dir(path.join("sub")).unwrap();
    fs::write(path.join("sub/file"), vec![1; 100_000]).unwrap();
    fs::hard_link(path.join("sub/file"), path.join("again")).unwrap();
    let sparse = File::create(path.join("sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    symlink("/", path.join("root")).unwrap();
    sparse.sync_all().unwrap();
    File::open(path.join("again")).unwrap().sync_all().unwrap();
    let usage = disk::usage(path, || true).unwrap().unwrap();
    // Two directories, a file with two names, a sparse one, a link.
    assert_eq!(usage.inodes, 5);
    assert!((100_000..200_000).contains(&usage.bytes), "{usage:?}");
    assert_eq!(disk::usage(path, || false).unwrap(), None, "stopped");
    let absent = disk::usage(path.join("absent"), || true).unwrap();
    assert_eq!(absent, Some(disk::Usage::default()));
    let whole = disk::file_system(path).unwrap();
    assert!(whole.total >= whole.used && whole.inodes >= whole.inodes_free && whole.total > 0);
}
