//! Starting programs on the real kernel.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use berth_sys::namespace::{self, Namespace};
use berth_sys::spawn::{Child, Exit, Group, Spawn, Stage};
use berth_sys::{Error, Kind, Signal, pipe, process};

const LONG: Duration = Duration::from_secs(20);

fn shell(script: &str) -> Spawn {
    Spawn::new("/bin/sh").arg("-c").arg(script).env("PATH", "/usr/bin:/bin")
}

fn wait(child: &mut Child) -> Exit {
    child.wait(LONG).unwrap().expect("the child ends in time")
}

/// Runs it to its end and returns what it wrote to stdout.
fn output(spawn: Spawn) -> (Exit, String) {
    let (read, write) = pipe::pipe().unwrap();
    let mut child = spawn.stdout(write).spawn().unwrap();
    let mut text = String::new();
    File::from(read).read_to_string(&mut text).unwrap();
    (wait(&mut child), text)
}

#[test]
fn exit_codes_and_signals_are_told_apart() {
    assert_eq!(wait(&mut shell("exit 42").spawn().unwrap()), Exit::Code(42));
    let exit = wait(&mut shell("kill -TERM $$").spawn().unwrap());
    assert_eq!(exit, Exit::Signal(Signal::TERM));
    assert_eq!(exit.code(), 143);
}

#[test]
fn the_environment_is_exactly_what_was_given() {
    let spawn = Spawn::new("/usr/bin/env").env("A", "1 2").env("B", "");
    assert_eq!(output(spawn), (Exit::Code(0), "A=1 2\nB=\n".to_owned()));
}

#[test]
fn a_bare_name_is_found_on_the_path() {
    assert_eq!(wait(&mut Spawn::new("true").spawn().unwrap()), Exit::Code(0));
    let error = Spawn::new("no-such-program-anywhere").spawn().unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
}

#[test]
fn stdin_is_empty_unless_given() {
    assert_eq!(output(Spawn::new("/bin/cat")), (Exit::Code(0), String::new()));
    let (read, write) = pipe::pipe().unwrap();
    File::from(write).write_all(b"fed").unwrap();
    assert_eq!(output(Spawn::new("/bin/cat").stdin(read)), (Exit::Code(0), "fed".to_owned()));
}

#[test]
fn a_failed_exec_tells_its_stage_and_is_reaped() {
    let error = Spawn::new("/no/such/program").spawn().unwrap_err();
    assert!(matches!(error, Error::Spawn { stage: Stage::Exec, .. }), "{error}");
    assert_eq!(error.kind(), Kind::NotFound);
    let error = Spawn::new("/bin/true").cwd("/no/such/dir").spawn().unwrap_err();
    assert!(matches!(error, Error::Spawn { stage: Stage::Directory, .. }), "{error}");
    assert!(error.to_string().contains("/no/such/dir"), "{error}");
    let error = Spawn::new("/bin/true").cgroups(["/no/such/tasks"]).spawn().unwrap_err();
    assert!(matches!(error, Error::Spawn { stage: Stage::Cgroup, .. }), "{error}");
    assert!(error.to_string().contains("/no/such/tasks"), "{error}");
}

#[test]
fn a_namespace_of_another_kind_is_named() {
    let net = namespace::open_own(Namespace::Net).unwrap();
    let error = Spawn::new("/bin/true").namespace(net, Namespace::Uts).spawn().unwrap_err();
    assert!(matches!(error, Error::Spawn { stage: Stage::Namespace, .. }), "{error}");
    assert!(error.to_string().contains("(uts)"), "{error}");
}

#[test]
fn descriptor_numbers_are_checked_before_anything_runs() {
    let null = || OwnedFd::from(File::open("/dev/null").unwrap());
    for targets in [[2, 9], [9, 9], [i32::MAX, 9], [-1, 9]] {
        let spawn = Spawn::new("/bin/true").inherit(null(), targets[1]).inherit(null(), targets[0]);
        assert_eq!(spawn.spawn().unwrap_err().kind(), Kind::Invalid, "{targets:?}");
    }
}

#[test]
fn an_argument_with_a_nul_byte_is_refused_before_anything_runs() {
    let error = Spawn::new("/bin/true").arg("a\0b").spawn().unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
}

#[test]
fn the_child_enters_each_cgroup_file_by_writing_zero() {
    let dir = tempfile::tempdir().unwrap();
    let files = [dir.path().join("one"), dir.path().join("two")];
    for file in &files {
        File::create(file).unwrap();
    }
    assert_eq!(wait(&mut Spawn::new("/bin/true").cgroups(&files).spawn().unwrap()), Exit::Code(0));
    for file in &files {
        assert_eq!(std::fs::read_to_string(file).unwrap(), "0");
    }
}

#[test]
fn no_descriptor_leaks_but_those_handed_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"inherited").unwrap();
    file.rewind().unwrap();
    // A descriptor of a foreign library that forgot close-on-exec.
    let sloppy = File::open(dir.path()).unwrap();
    rustix::io::fcntl_setfd(&sloppy, rustix::io::FdFlags::empty()).unwrap();
    let spawn = shell("cat <&7; echo; for f in /proc/self/fd/*; do echo ${f##*/}; done")
        .inherit(OwnedFd::from(file), 7);
    let (exit, text) = output(spawn);
    assert_eq!(exit, Exit::Code(0));
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("inherited"));
    // The shell lists its own /proc/self/fd through one more descriptor of its own.
    let open: Vec<i32> = lines.map(|line| line.parse().unwrap()).collect();
    assert_eq!(open.iter().filter(|fd| ![0, 1, 2, 7].contains(fd)).count(), 1, "{open:?}");
    drop(sloppy);
}

#[test]
fn descriptors_swap_numbers_without_overwriting_each_other() {
    let make = |text: &str| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.rewind().unwrap();
        OwnedFd::from(file)
    };
    // The sources lie exactly where the other's target is.
    let (a, b) = (make("a"), make("b"));
    let (at_a, at_b) = (std::os::fd::AsRawFd::as_raw_fd(&a), std::os::fd::AsRawFd::as_raw_fd(&b));
    let script = format!("cat /proc/self/fd/{at_a} /proc/self/fd/{at_b}");
    let spawn = shell(&script).inherit(a, at_b).inherit(b, at_a);
    assert_eq!(output(spawn), (Exit::Code(0), "ba".to_owned()));
}

#[test]
fn a_group_of_its_own_dies_as_a_whole() {
    let (read, write) = pipe::pipe().unwrap();
    let mut child = shell("sleep 1000 & sleep 1000 & echo up; wait")
        .stdout(write)
        .group(Group::Own)
        .spawn()
        .unwrap();
    let mut read = File::from(read);
    let mut up = [0; 3];
    read.read_exact(&mut up).unwrap();
    assert_eq!(process::stat(child.pid()).unwrap().group, child.pid().as_raw_pid());
    assert!(child.kill_group(Signal::KILL).unwrap());
    // End of file: nobody is left who holds the pipe.
    read.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(wait(&mut child), Exit::Signal(Signal::KILL));
    assert!(!child.kill_group(Signal::KILL).unwrap(), "a reaped child has no group any more");
    assert!(!child.kill(Signal::KILL).unwrap());
}

#[test]
fn a_session_of_its_own() {
    let mut child = Spawn::new("/bin/sleep").arg("1000").group(Group::Session).spawn().unwrap();
    let stat = process::stat(child.pid()).unwrap();
    assert_eq!((stat.session, stat.group), (stat.pid, stat.pid));
    child.kill(Signal::KILL).unwrap();
    wait(&mut child);
}

#[test]
fn a_terminal_becomes_the_controlling_one() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let slave = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let spawn = shell("echo seen > /dev/tty").group(Group::Terminal).stdin(slave);
    let mut child = spawn.spawn().unwrap();
    assert_eq!(wait(&mut child), Exit::Code(0));
    let mut text = [0; 4];
    File::from(master).read_exact(&mut text).unwrap();
    assert_eq!(&text, b"seen");
}

#[test]
fn handlers_masks_and_ignored_signals_do_not_pass_to_the_child() {
    // Rust ignores SIGPIPE in this process; the child must not.
    let (exit, text) = output(shell("grep -E '^Sig(Blk|Ign)' /proc/self/status"));
    assert_eq!(exit, Exit::Code(0));
    for line in text.lines() {
        assert!(line.ends_with("0000000000000000"), "{line}");
    }
}

#[test]
fn umask_score_and_privileges_are_set() {
    let own = berth_sys::thread::oom_score_adj().unwrap();
    let spawn = shell("umask; cat /proc/self/oom_score_adj; grep NoNewPrivs /proc/self/status")
        .umask(0o027)
        .oom_score_adj(own.max(300))
        .no_new_privs();
    let (exit, text) = output(spawn);
    assert_eq!(exit, Exit::Code(0));
    assert_eq!(text, format!("0027\n{}\nNoNewPrivs:\t1\n", own.max(300)));
    // Memory is shared until the exec: the score must not have become the parent's.
    assert_eq!(berth_sys::thread::oom_score_adj().unwrap(), own);
}

#[test]
fn the_child_enters_namespaces_and_the_parent_stays() {
    let before = std::fs::read_link("/proc/thread-self/ns/uts").unwrap();
    // The namespaces are held by a process that made them.
    let mut holder = Spawn::new("/usr/bin/unshare")
        .args(["--user", "--map-root-user", "--uts", "--net", "--", "sh", "-c"])
        .arg("hostname inside; echo up; exec sleep 1000")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let (read, write) = pipe::pipe().unwrap();
    holder = holder.stdout(write);
    let mut holder = holder.spawn().unwrap();
    File::from(read).read_exact(&mut [0; 3]).unwrap();
    let ns = |kind: Namespace| {
        namespace::open(format!("/proc/{}/ns/{}", holder.pid().as_raw_pid(), kind.file())).unwrap()
    };
    let spawn = Spawn::new("/bin/hostname")
        .namespace(ns(Namespace::User), Namespace::User)
        .namespace(ns(Namespace::Net), Namespace::Net)
        .namespace(ns(Namespace::Uts), Namespace::Uts);
    assert_eq!(output(spawn), (Exit::Code(0), "inside\n".to_owned()));
    assert_eq!(std::fs::read_link("/proc/thread-self/ns/uts").unwrap(), before);
    holder.kill(Signal::KILL).unwrap();
    wait(&mut holder);
}

#[test]
fn waiting_ends_at_its_limit_and_peeking_does_not_reap() {
    let mut child = Spawn::new("/bin/sleep").arg("1000").spawn().unwrap();
    assert_eq!(child.wait(Duration::from_millis(1)).unwrap(), None);
    assert_eq!(child.try_wait().unwrap(), None);
    child.kill(Signal::KILL).unwrap();
    assert!(berth_sys::pidfd::wait_exited(child.pidfd(), LONG).unwrap());
    assert_eq!(child.peek().unwrap(), Some(Exit::Signal(Signal::KILL)));
    assert_eq!(process::stat(child.pid()).unwrap().state, process::State::Zombie);
    assert_eq!(child.try_wait().unwrap(), Some(Exit::Signal(Signal::KILL)));
    assert!(process::stat(child.pid()).is_err());
    assert_eq!(child.try_wait().unwrap(), Some(Exit::Signal(Signal::KILL)), "remembered");
}

#[test]
fn the_pidfd_is_close_on_exec() {
    let mut child = Spawn::new("/bin/true").spawn().unwrap();
    let flags = rustix::io::fcntl_getfd(child.pidfd().as_fd()).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    wait(&mut child);
}

#[test]
fn many_threads_spawn_at_once() {
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for code in 0..25_u8 {
                    // Allocation in the other threads is what a careless child would trip over.
                    let mut child = shell(&format!("exit {code}")).spawn().unwrap();
                    assert_eq!(wait(&mut child), Exit::Code(code));
                }
            });
        }
    });
}

/// Not a test of speed (machines differ), but of the thing that makes it fast: the cost must not
/// grow with the memory of the parent, as it does with fork.
#[test]
fn the_size_of_the_parent_costs_nothing() {
    // The fastest of many: the machine may be busy with other things.
    let fastest = || {
        let times = (0..60).map(|_| {
            let begin = Instant::now();
            let mut child = Spawn::new("/bin/true").spawn().unwrap();
            let taken = begin.elapsed();
            wait(&mut child);
            taken
        });
        times.min().unwrap()
    };
    let small = fastest();
    let mut memory = vec![0_u8; 100 << 20];
    for byte in memory.iter_mut().step_by(4096) {
        *byte = 1;
    }
    let large = fastest();
    drop(memory);
    eprintln!("spawn of /bin/true: {small:?}, from 100 MB: {large:?}");
    // A fork pays milliseconds here for the page tables.
    assert!(large < small * 2 + Duration::from_micros(500), "{small:?} became {large:?}");
}
