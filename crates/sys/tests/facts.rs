//! Facts about processes, fifos, and what a thread can set for itself.

use std::fs::File;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use berth_sys::namespace::{self, Namespace};
use berth_sys::pipe::{FifoEnd, make_fifo, open_fifo};
use berth_sys::spawn::{Exit, Spawn};
use berth_sys::{Kind, Signal, netdev, pidfd, pipe, process, small, thread};

const LONG: Duration = Duration::from_secs(20);

#[test]
fn a_sleeping_child_and_its_place_in_the_kernel() {
    let (read, write) = pipe::pipe().unwrap();
    let mut child = Spawn::new("/bin/sh")
        .args(["-c", "sleep 1000 & echo up; wait"])
        .env("PATH", "/usr/bin:/bin")
        .stdout(write)
        .group(berth_sys::spawn::Group::Own)
        .spawn()
        .unwrap();
    File::from(read).read_exact(&mut [0; 3]).unwrap();
    let below = process::children(child.pid()).unwrap();
    assert_eq!(below.len(), 1);
    let stat = process::stat(below[0]).unwrap();
    assert_eq!((stat.parent, stat.threads), (child.pid().as_raw_pid(), 1));
    assert!(process::start_time(below[0]).unwrap() >= process::start_time(child.pid()).unwrap());
    let end = Instant::now() + LONG;
    while !process::wait_channel(below[0]).unwrap().contains("nanosleep") {
        assert!(Instant::now() < end);
        std::thread::yield_now();
    }
    assert!(process::executable(below[0]).unwrap().ends_with("sleep"));
    assert_eq!(process::arguments(below[0]).unwrap(), ["sleep", "1000"]);
    child.kill_group(Signal::KILL).unwrap();
    child.wait(LONG).unwrap().unwrap();
    assert_eq!(process::stat(child.pid()).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn a_pidfd_names_one_process_only() {
    let mut child = Spawn::new("/bin/sleep").arg("1000").spawn().unwrap();
    let fd = pidfd::open(child.pid()).unwrap();
    assert!(pidfd::alive(&fd).unwrap());
    pidfd::send(&fd, Signal::TERM).unwrap();
    assert!(pidfd::wait_exited(&fd, LONG).unwrap());
    assert!(!pidfd::alive(&fd).unwrap());
    pidfd::send(&fd, Signal::TERM).unwrap();
    assert_eq!(child.wait(LONG).unwrap(), Some(Exit::Signal(Signal::TERM)));
    assert_eq!(pidfd::send(&fd, Signal::TERM).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(pidfd::open(child.pid()).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn the_parent_death_signal_comes_with_the_end_of_the_thread() {
    let mut child = std::thread::scope(|scope| {
        let spawned = scope.spawn(|| {
            let sleep = Spawn::new("/bin/sleep").arg("1000");
            sleep.parent_death_signal(Signal::USR1).spawn().unwrap()
        });
        spawned.join().unwrap()
    });
    assert_eq!(child.wait(LONG).unwrap(), Some(Exit::Signal(Signal::USR1)));
}

#[test]
fn fifos_open_without_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fifo");
    make_fifo(&path, 0o600).unwrap();
    assert_eq!(make_fifo(&path, 0o600).unwrap_err().kind(), Kind::Exists);
    assert_eq!(open_fifo(&path, FifoEnd::Write).unwrap_err().kind(), Kind::NotFound, "no reader");
    let mut reader = File::from(open_fifo(&path, FifoEnd::Read).unwrap());
    let mut writer = File::from(open_fifo(&path, FifoEnd::Write).unwrap());
    writer.write_all(b"x").unwrap();
    let mut byte = [0; 2];
    assert_eq!(reader.read(&mut byte).unwrap(), 1);
    assert_eq!(reader.read(&mut byte).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    drop(writer);
    assert_eq!(reader.read(&mut byte).unwrap(), 0, "the last writer went");
    let plain = dir.path().join("plain");
    std::fs::write(&plain, "not a fifo").unwrap();
    assert_eq!(open_fifo(&plain, FifoEnd::Both).unwrap_err().kind(), Kind::Invalid);
}

#[test]
fn loopback_comes_up_in_a_new_network_namespace() {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            namespace::unshare(&[Namespace::Net]).unwrap();
            let up = || {
                let (read, write) = pipe::pipe().unwrap();
                let net = namespace::open_own(Namespace::Net).unwrap();
                let mut ip = Spawn::new("/usr/sbin/ip")
                    .args(["-o", "link", "show", "lo"])
                    .namespace(net, Namespace::Net)
                    .stdout(write)
                    .spawn()
                    .unwrap();
                let mut text = String::new();
                File::from(read).read_to_string(&mut text).unwrap();
                assert_eq!(ip.wait(LONG).unwrap(), Some(Exit::Code(0)));
                text.contains(",UP")
            };
            assert!(!up());
            netdev::loopback_up().unwrap();
            netdev::loopback_up().unwrap();
            assert!(up());
        });
    });
}

#[test]
fn a_device_gets_addresses_of_both_kinds_and_twice_is_fine() {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            namespace::unshare(&[Namespace::Net]).unwrap();
            let addresses = || {
                let (read, write) = pipe::pipe().unwrap();
                let net = namespace::open_own(Namespace::Net).unwrap();
                let mut ip = Spawn::new("/usr/sbin/ip")
                    .args(["-o", "addr", "show", "lo"])
                    .namespace(net, Namespace::Net)
                    .stdout(write)
                    .spawn()
                    .unwrap();
                let mut text = String::new();
                File::from(read).read_to_string(&mut text).unwrap();
                assert_eq!(ip.wait(LONG).unwrap(), Some(Exit::Code(0)));
                text
            };
            netdev::loopback_up().unwrap();
            for _ in 0..2 {
                netdev::add_address("lo", "10.9.8.7".parse().unwrap(), 24).unwrap();
                netdev::add_address("lo", "fd00::9".parse().unwrap(), 64).unwrap();
            }
            let text = addresses();
            assert!(text.contains("inet 10.9.8.7/24 scope global"), "{text}");
            assert!(text.contains("inet6 fd00::9/64 scope global"), "{text}");
            let error = netdev::add_address("none0", "10.9.8.7".parse().unwrap(), 24).unwrap_err();
            assert_eq!(error.kind(), Kind::NotFound);
            let error = netdev::add_address("lo", "10.9.8.7".parse().unwrap(), 77).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid);
        });
    });
}

#[test]
fn a_thread_names_itself_and_small_files_read_whole() {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            thread::set_name("a-name-longer-than-fifteen").unwrap();
            let comm = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
            assert_eq!(comm, "a-name-longer-t\n");
            assert_eq!(thread::set_name("a\0b").unwrap_err().kind(), Kind::Invalid);
        });
    });
    assert_eq!(small::boot_id().unwrap().len(), 36);
    let score = thread::oom_score_adj().unwrap();
    assert!((-1000..=1000).contains(&score));
    let path = std::path::Path::new("/proc/self/comm");
    let error = small::read_number::<u64>(path).unwrap_err();
    assert_eq!(error.kind(), Kind::Broken, "{error}");
}

#[test]
fn errors_name_what_where_and_why() {
    let error = berth_sys::mountinfo::Table::of(berth_sys::Pid::from_raw(i32::MAX).unwrap());
    let text = error.unwrap_err().to_string();
    assert_eq!(
        text,
        "cannot read /proc/2147483647/mountinfo: No such file or directory (os error 2)"
    );
}
