//! The helper itself, run for real. Each test runs in mount, user or PID namespaces of its own
//! (made by unshare(1)): nothing of the machine changes.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use berth_sys::namespace::{self, Namespace};
use berth_sys::spawn::{Child, Exit, Spawn};
use berth_sys::{Signal, mounts, pipe, process};
use serde_json::{Value, json};

const HELPER: &str = env!("CARGO_BIN_EXE_berth-helper");
const LONG: Duration = Duration::from_secs(20);
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs this test again in a private mount namespace, so that its mounts are its own, and goes
/// with it when it ends. Returns whether the caller is the one inside.
fn inside(test: &str) -> bool {
    if std::env::var_os("BERTH_INSIDE").is_some() {
        return true;
    }
    let (read, write) = pipe::pipe().unwrap();
    let errors = write.try_clone().unwrap();
    let mut child = Spawn::new("/usr/bin/unshare")
        .args(["--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("PATH", PATH)
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

/// Runs a verb: its exit code and its answer.
fn ask(verb: &str, request: &Value) -> (Exit, Value) {
    let (stdin, feed) = pipe::pipe().unwrap();
    let (answer, stdout) = pipe::pipe().unwrap();
    let spawn = Spawn::new(HELPER).arg(verb).stdin(stdin).stdout(stdout);
    let mut child = spawn.spawn().unwrap();
    // One that refuses its verb does not read.
    let _ = File::from(feed).write_all(request.to_string().as_bytes());
    let mut text = String::new();
    File::from(answer).read_to_string(&mut text).unwrap();
    let exit = child.wait(LONG).unwrap().expect("the helper ends");
    (exit, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text:?}")))
}

fn ask_well(verb: &str, request: &Value) -> Value {
    let (exit, answer) = ask(verb, request);
    assert_eq!(exit, Exit::Code(0), "{answer}");
    answer
}

/// A directory that is a tmpfs of its own, removed with it.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        mounts::unmount_below(self.path()).unwrap();
    }
}

fn scratch() -> Scratch {
    let dir = tempfile::tempdir().unwrap();
    mounts::mount("tmpfs", dir.path(), "tmpfs", mounts::Flags::empty(), "size=1m").unwrap();
    Scratch(dir)
}

/// Runs a shell script in pinned namespaces and returns what it wrote.
fn run_in(pins: &[(Namespace, &Path)], script: &str) -> String {
    let (read, write) = pipe::pipe().unwrap();
    let mut spawn = Spawn::new("/bin/sh").arg("-c").arg(script).env("PATH", PATH).stdout(write);
    for (kind, pin) in pins {
        spawn = spawn.namespace(namespace::open(pin).unwrap(), *kind);
    }
    let mut child = spawn.spawn().unwrap();
    let mut text = String::new();
    File::from(read).read_to_string(&mut text).unwrap();
    assert_eq!(child.wait(LONG).unwrap(), Some(Exit::Code(0)), "{text}");
    text
}

#[test]
fn namespaces_are_made_pinned_and_outlive_the_helper() {
    if !inside("namespaces_are_made_pinned_and_outlive_the_helper") {
        return;
    }
    let dir = scratch();
    let pin = |name: &str| dir.path().join("deep").join(name);
    let (net, ipc, uts) = (pin("net"), pin("ipc"), pin("uts"));
    let own_hostname = std::fs::read("/proc/sys/kernel/hostname").unwrap();
    let request = json!({
        "user": null,
        "pins": { "net": net, "ipc": ipc, "uts": uts },
        "hostname": "a-pod",
        "sysctls": {
            "net.ipv4.ip_unprivileged_port_start": "0",
            "net.ipv4.ping_group_range": "0 2147483647",
            "kernel.shm_rmid_forced": "1",
        },
        "loopback": true,
    });
    for _ in 0..2 {
        // The second time over the pins of the first.
        assert_eq!(ask_well("namespaces", &request)["skipped"], json!([]));
    }
    let pins = [(Namespace::Net, &*net), (Namespace::Ipc, &*ipc), (Namespace::Uts, &*uts)];
    for (kind, pin) in pins {
        assert!(namespace::is_pinned(pin).unwrap());
        let own = format!("/proc/self/ns/{}", kind.file());
        assert!(!namespace::same(&own, pin).unwrap(), "{own}");
    }
    let script = "hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start \
                  /proc/sys/net/ipv4/ping_group_range /proc/sys/kernel/shm_rmid_forced; \
                  ip -o link show lo";
    let text = run_in(&pins, script);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(&lines[..4], ["a-pod", "0", "0\t2147483647", "1"], "{text}");
    assert!(lines[4].contains("<LOOPBACK,UP,"), "{text}");
    assert_eq!(std::fs::read("/proc/sys/kernel/hostname").unwrap(), own_hostname);
    let pins = json!({ "pins": [net, ipc, uts] });
    for _ in 0..2 {
        ask_well("unpin", &pins);
        assert!(!net.exists() && !ipc.exists() && !uts.exists());
    }
}

#[test]
fn a_user_namespace_owns_the_others() {
    if !inside("a_user_namespace_owns_the_others") {
        return;
    }
    let dir = scratch();
    let pin = |name: &str| dir.path().join(name);
    let (user, net, ipc, uts) = (pin("user"), pin("net"), pin("ipc"), pin("uts"));
    let map = json!([{ "container_id": 0, "host_id": 100_000, "length": 65_536 }]);
    let request = json!({
        "user": { "uids": map, "gids": map },
        "pins": { "user": user, "net": net, "ipc": ipc, "uts": uts },
        "hostname": "mapped",
        "sysctls": {
            "net.ipv4.ip_unprivileged_port_start": "0",
            "net.ipv4.ping_group_range": "0 2147483647",
            "kernel.shm_rmid_forced": "1",
            "fs.mqueue.msg_max": "20",
        },
        "loopback": true,
    });
    let answer = ask_well("namespaces", &request);
    assert_eq!(answer["skipped"], json!(["net.ipv4.ping_group_range"]), "it lacks such groups");
    let pins = [
        (Namespace::User, &*user),
        (Namespace::Net, &*net),
        (Namespace::Ipc, &*ipc),
        (Namespace::Uts, &*uts),
    ];
    // Entering works only if the user namespace gives power over the others.
    let text = run_in(&pins, "hostname; cat /proc/self/uid_map /proc/sys/fs/mqueue/msg_max");
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    assert_eq!(words, ["mapped", "0", "100000", "65536", "20"]);
    ask_well("unpin", &json!({ "pins": [uts, ipc, net, user] }));
}

#[test]
fn nothing_stays_after_a_failure() {
    if !inside("nothing_stays_after_a_failure") {
        return;
    }
    let dir = scratch();
    let (net, uts) = (dir.path().join("net"), dir.path().join("uts"));
    let mut request = json!({
        "user": null,
        "pins": { "net": net, "uts": uts },
        "hostname": "x".repeat(100),
        "sysctls": {},
        "loopback": true,
    });
    let (exit, answer) = ask("namespaces", &request);
    assert_eq!(exit, Exit::Code(1));
    assert_eq!(answer["error"]["kind"], "invalid", "{answer}");
    request["hostname"] = json!("fine");
    request["sysctls"] = json!({ "net.ipv4.no_such_thing": "1" });
    let (_, answer) = ask("namespaces", &request);
    assert_eq!(answer["error"]["kind"], "invalid", "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("no_such_thing"), "{answer}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "no pin is left");
}

#[test]
fn what_would_change_the_node_is_refused() {
    if !inside("what_would_change_the_node_is_refused") {
        return;
    }
    let dir = scratch();
    let uts = dir.path().join("uts");
    for request in [
        json!({ "pins": { "uts": uts }, "sysctls": { "kernel.panic": "1" } }),
        json!({ "pins": { "uts": uts }, "sysctls": { "net.ipv4.ip_forward": "1" } }),
        json!({ "pins": { "uts": uts }, "sysctls": { "kernel/../vm/swappiness": "1" } }),
        json!({ "pins": { "uts": uts }, "loopback": true }),
        json!({ "pins": {}, "hostname": "no" }),
        json!({ "pins": { "uts": "relative" } }),
        json!({ "pins": { "user": uts } }),
        json!({ "pins": {}, "unknown": 1 }),
        json!([]),
    ] {
        let (exit, answer) = ask("namespaces", &request);
        assert_eq!(exit, Exit::Code(1), "{request}");
        assert_eq!(answer["error"]["kind"], "invalid", "{request}: {answer}");
    }
    assert!(!uts.exists());
    let (exit, answer) = ask("no-such-verb", &json!({}));
    assert_eq!((exit, &answer["error"]["kind"]), (Exit::Code(1), &json!("invalid")));
}

#[test]
fn stat_follows_links_and_tells_devices_and_propagation() {
    if !inside("stat_follows_links_and_tells_devices_and_propagation") {
        return;
    }
    let dir = scratch();
    let path = |name: &str| dir.path().join(name);
    std::fs::create_dir(path("real")).unwrap();
    std::os::unix::fs::symlink("real", path("link")).unwrap();
    std::fs::create_dir(path("shared")).unwrap();
    mounts::mount("tmpfs", path("shared"), "tmpfs", mounts::Flags::empty(), "").unwrap();
    mounts::set_propagation(path("shared"), mounts::Propagation::Shared, false).unwrap();
    let answer = ask_well(
        "stat",
        &json!({ "paths": [
            { "path": path("link"), "want": "dir" },
            { "path": "/dev/null", "want": "device" },
            { "path": path("absent"), "want": "any" },
            { "path": path("shared"), "propagation": "shared" },
            { "path": path("real"), "propagation": "slave" },
            { "path": "/dev/null", "want": "dir" },
            { "path": path("made/here"), "want": "dir", "create": true },
        ] }),
    );
    let seen = answer["paths"].as_array().unwrap();
    assert_eq!(seen[0]["kind"], "dir");
    assert_eq!(seen[0]["resolved"], json!(path("real").canonicalize().unwrap()));
    assert_eq!(seen[0]["problem"], Value::Null);
    assert_eq!(seen[1]["kind"], "char");
    assert_eq!((&seen[1]["major"], &seen[1]["minor"]), (&json!(1), &json!(3)));
    assert_eq!(seen[2]["exists"], false);
    assert!(seen[2]["problem"].as_str().unwrap().contains("does not exist"));
    assert_eq!((&seen[3]["propagation"], &seen[3]["problem"]), (&json!("shared"), &Value::Null));
    assert_eq!(seen[4]["propagation"], "private");
    assert!(seen[4]["problem"].as_str().unwrap().contains("shared or slave"));
    assert!(seen[5]["problem"].as_str().unwrap().contains("not a directory"));
    assert!(seen[6]["exists"] == true && path("made/here").is_dir());
}

#[test]
fn mounts_are_made_together_or_not_at_all() {
    if !inside("mounts_are_made_together_or_not_at_all") {
        return;
    }
    let dir = scratch();
    let path = |name: &str| -> PathBuf {
        let path = dir.path().canonicalize().unwrap().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    };
    let (a, b, c) = (path("a"), path("b"), path("c"));
    std::fs::write(a.join("file"), "x").unwrap();
    let bind = json!({ "type": "bind", "source": a, "target": b, "options": ["rbind", "ro"] });
    let tmpfs = json!({ "type": "tmpfs", "source": "tmpfs", "target": c,
                        "options": ["nosuid", "size=64k"] });
    let broken = json!({ "type": "bind", "source": "/no/such", "target": c, "options": ["bind"] });
    let (exit, answer) = ask("mount", &json!({ "mounts": [bind, broken] }));
    assert_eq!((exit, &answer["error"]["kind"]), (Exit::Code(1), &json!("not_found")));
    let table = || berth_sys::mountinfo::Table::own().unwrap();
    assert!(!table().is_mount_point(&b), "the first one is undone");
    ask_well("mount", &json!({ "mounts": [bind, tmpfs] }));
    assert!(b.join("file").exists());
    assert!(std::fs::write(b.join("other"), "y").is_err(), "read-only");
    assert!(table().at(&c).unwrap().options.contains("nosuid"));
    // All below a directory, then two paths of which one is not mounted.
    mounts::mount("tmpfs", &b, "tmpfs", mounts::Flags::empty(), "").unwrap();
    let answer = ask_well("unmount", &json!({ "below": dir.path().join("b") }));
    assert_eq!(answer["gone"], 2, "both that lay over each other");
    assert!(!table().is_mount_point(&b) && table().is_mount_point(&c));
    ask_well("unmount", &json!({ "paths": [b, c, "/no/such/path"] }));
    assert!(!table().is_mount_point(&c));
    let (exit, _) = ask("unmount", &json!({ "below": "/" }));
    assert_eq!(exit, Exit::Code(1), "never the whole machine");
}

/// Starts `pause` as the first process of a new PID namespace; unshare(1) stays its parent.
fn start_pause() -> (Child, berth_sys::Pid) {
    let mut unshare = Spawn::new("/usr/bin/unshare")
        .args(["--pid", "--fork", "--kill-child", "--", HELPER, "pause"])
        .env("PATH", PATH)
        .spawn()
        .unwrap();
    let end = Instant::now() + LONG;
    loop {
        assert_eq!(unshare.peek().unwrap(), None, "unshare ended early");
        let children = process::children(unshare.pid()).unwrap();
        let named =
            children.iter().find(|pid| process::stat(**pid).is_ok_and(|s| s.name == "pause"));
        if let Some(pid) = named {
            return (unshare, *pid);
        }
        assert!(Instant::now() < end, "pause never came up");
        std::thread::yield_now();
    }
}

#[test]
fn pause_reaps_orphans_and_ends_on_sigterm() {
    let (mut unshare, pause) = start_pause();
    let pidns = format!("/proc/{}/ns/pid", pause.as_raw_pid());
    // A process in its namespace whose parent dies at once: its orphan goes to pause.
    let script = "(sleep 0 & exec true); echo done";
    let (read, write) = pipe::pipe().unwrap();
    let mut enter = Spawn::new("/usr/bin/nsenter")
        .arg(format!("--pid={pidns}"))
        .args(["--", "/bin/sh", "-c", script])
        .env("PATH", PATH)
        .stdout(write)
        .spawn()
        .unwrap();
    File::from(read).read_to_string(&mut String::new()).unwrap();
    enter.wait(LONG).unwrap().unwrap();
    let end = Instant::now() + LONG;
    while !process::children(pause).unwrap().is_empty() {
        assert!(Instant::now() < end, "an orphan stays a zombie");
        std::thread::yield_now();
    }
    let pidfd = berth_sys::pidfd::open(pause).unwrap();
    berth_sys::pidfd::send(&pidfd, Signal::TERM).unwrap();
    assert!(berth_sys::pidfd::wait_exited(&pidfd, LONG).unwrap());
    assert_eq!(unshare.wait(LONG).unwrap(), Some(Exit::Code(0)));
}

#[test]
fn a_child_that_cannot_map_its_ids_fails_cleanly() {
    if !inside("a_child_that_cannot_map_its_ids_fails_cleanly") {
        return;
    }
    let dir = scratch();
    let (user, net) = (dir.path().join("user"), dir.path().join("net"));
    // Two ranges that overlap: the kernel refuses the map.
    let map = json!([{ "container_id": 0, "host_id": 100_000, "length": 10 },
                     { "container_id": 5, "host_id": 200_000, "length": 10 }]);
    let request =
        json!({ "user": { "uids": map, "gids": map }, "pins": { "user": user, "net": net } });
    let (exit, answer) = ask("namespaces", &request);
    assert_eq!(exit, Exit::Code(1));
    assert!(answer["error"]["message"].as_str().unwrap().contains("uid_map"), "{answer}");
    assert!(!user.exists() && !net.exists());
}

#[test]
fn a_file_is_read_up_to_a_limit_and_nothing_else_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let (file, fifo) = (dir.path().join("file"), dir.path().join("fifo"));
    std::fs::write(&file, "{\"a\": 1}").unwrap();
    pipe::make_fifo(&fifo, 0o600).unwrap();
    let read = |path: &Path, limit: u64| ask("read", &json!({"path": path, "limit": limit}));
    assert_eq!(read(&file, 8).1["content"], "{\"a\": 1}");
    let refused = |path: &Path, limit, kind: &str| {
        let (exit, answer) = read(path, limit);
        assert_eq!(exit, Exit::Code(1), "{answer}");
        assert_eq!(answer["error"]["kind"], kind, "{answer}");
        let text = answer["error"]["message"].as_str().unwrap().to_owned();
        assert!(text.contains(path.to_str().unwrap()), "{text}");
    };
    refused(&file, 7, "invalid");
    refused(&fifo, 8, "invalid");
    refused(dir.path(), 8, "invalid");
    refused(Path::new("/dev/zero"), 8, "invalid");
    refused(&dir.path().join("none"), 8, "not_found");
}

#[test]
fn a_volume_is_relabelled_and_nothing_that_its_links_lead_to() {
    let dir = tempfile::tempdir().unwrap();
    let (volume, outside) = (dir.path().join("volume"), dir.path().join("outside"));
    std::fs::create_dir_all(volume.join("below")).unwrap();
    std::fs::write(volume.join("below/file"), "x").unwrap();
    std::fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, volume.join("link")).unwrap();
    let label = "system_u:object_r:container_file_t:s0:c1,c2";
    ask_well("relabel", &json!({"paths": [&volume], "label": label}));
    let told = |path: &Path| {
        let mut buffer = [0; 128];
        let length = rustix::fs::lgetxattr(path, "security.selinux", &mut buffer[..]);
        length.ok().map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    for path in ["", "below", "below/file", "link"] {
        assert_eq!(told(&volume.join(path)).as_deref(), Some(label), "{path}");
    }
    assert_eq!(told(&outside), None);
    let (exit, answer) = ask("relabel", &json!({"paths": ["/etc"], "label": label}));
    assert_eq!(exit, Exit::Code(1));
    assert_eq!(answer["error"]["kind"], "invalid");
}
