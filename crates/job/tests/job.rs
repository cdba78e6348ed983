//! Jobs on the real kernel.

use std::fs::File;
use std::io::{Read, Seek};
use std::time::{Duration, Instant};

use berth_job::{Error, Job};
use berth_sys::spawn::{Exit, Spawn};
use berth_sys::{Kind, Pid, Signal, pidfd, pipe, process};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const LONG: Duration = Duration::from_secs(20);

fn shell(script: &str) -> Spawn {
    Spawn::new("/bin/sh").arg("-c").arg(script).env("PATH", "/usr/bin:/bin")
}

fn job(script: &str) -> Job {
    Job::new(shell(script), LONG)
}

/// Waits until every process that held the write end is gone, which end of file proves.
fn everybody_gone(read: &std::os::fd::OwnedFd) -> bool {
    let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
    poll(&mut [PollFd::new(read, PollFlags::IN)], Some(&limit)).unwrap() == 1
}

#[tokio::test]
async fn both_outputs_are_kept_apart() {
    let outcome = job("echo out; echo err >&2; exit 3").run().await.unwrap();
    assert_eq!(outcome.exit, Exit::Code(3));
    assert_eq!((&outcome.stdout[..], &outcome.stderr[..]), (&b"out\n"[..], &b"err\n"[..]));
    let error = outcome.success().unwrap_err();
    assert_eq!(error.to_string(), "/bin/sh exited with code 3; it said: err");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_works_on_a_runtime_with_threads_as_well() {
    let jobs = (0..20).map(|n| tokio::spawn(job(&format!("echo {n}")).run()));
    for (n, job) in jobs.collect::<Vec<_>>().into_iter().enumerate() {
        let outcome = job.await.unwrap().unwrap().success().unwrap();
        assert_eq!(outcome.stdout, format!("{n}\n").into_bytes());
    }
}

#[tokio::test]
async fn more_than_a_pipe_goes_in_and_comes_out() {
    let bytes: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
    let outcome = job("cat").stdin(bytes.clone()).capture(2 << 20).run().await.unwrap();
    assert!(outcome.stdout == bytes && !outcome.cut);
}

#[tokio::test]
async fn a_job_that_does_not_read_its_stdin_succeeds() {
    let outcome = job("exit 0").stdin(vec![0; 1 << 20]).run().await.unwrap();
    assert!(outcome.exit.success());
}

#[tokio::test]
async fn what_goes_beyond_the_limit_is_read_and_thrown_away() {
    let outcome = job("head -c 3000000 /dev/zero").capture(1000).run().await.unwrap();
    assert!(outcome.exit.success(), "it was never blocked");
    assert_eq!((outcome.stdout.len(), outcome.cut), (1000, true));
}

#[tokio::test]
async fn stdout_goes_to_a_file_on_request() {
    let mut file = tempfile::tempfile().unwrap();
    let outcome = job("echo there").stdout_to(file.try_clone().unwrap()).run().await.unwrap();
    assert!(outcome.stdout.is_empty());
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "there\n");
}

#[tokio::test]
async fn the_deadline_kills_the_whole_group() {
    let (read, write) = pipe::pipe().unwrap();
    let spawn = shell("echo working >&2; sleep 1000 & sleep 1000").inherit(write, 9);
    let error = Job::new(spawn, Duration::from_millis(300)).run().await.unwrap_err();
    assert_eq!(error.kind(), Kind::TimedOut);
    let Error::TimedOut { said, remains, .. } = error else { panic!("{error}") };
    assert_eq!((said.as_str(), remains), ("working", None));
    assert!(everybody_gone(&read));
}

#[tokio::test]
async fn dropping_the_future_kills_the_group_and_reaps_the_child() {
    let (read, write) = pipe::pipe().unwrap();
    let (told, tell) = pipe::pipe().unwrap();
    let spawn = shell("echo $$ >&8; sleep 1000 & sleep 1000").inherit(write, 9).inherit(tell, 8);
    let task = tokio::spawn(Job::new(spawn, LONG).run());
    let pid = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(File::from(told)), &mut line)
            .unwrap();
        Pid::from_raw(line.trim().parse().unwrap()).unwrap()
    });
    let pid = pid.await.unwrap();
    let handle = pidfd::open(pid).unwrap();
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert!(everybody_gone(&read));
    assert!(pidfd::wait_exited(&handle, LONG).unwrap());
    // Reaped by a task of the runtime: give it turns until the zombie is gone.
    let end = Instant::now() + LONG;
    while process::stat(pid).is_ok() {
        assert!(Instant::now() < end, "still a zombie");
        tokio::task::yield_now().await;
    }
}

#[test]
fn dropping_it_without_a_runtime_kills_as_well() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (read, write) = pipe::pipe().unwrap();
    let spawn = shell("sleep 1000").inherit(write, 9);
    let mut future = Box::pin(Job::new(spawn, LONG).run());
    runtime.block_on(async {
        // One poll starts it.
        let _ = tokio::time::timeout(Duration::from_millis(1), &mut future).await;
    });
    drop(future);
    assert!(everybody_gone(&read));
}

/// A fifo in the place of a cgroup's file stops the child before its exec, as a frozen cgroup does.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_child_that_is_stopped_before_its_exec_does_not_hold_the_caller() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("tasks");
    pipe::make_fifo(&fifo, 0o600).unwrap();
    let (read, write) = pipe::pipe().unwrap();
    let spawn = shell("sleep 1000").inherit(write, 9).cgroups([&fifo]);
    let error = Job::new(spawn, Duration::from_millis(100)).run().await.unwrap_err();
    assert_eq!(error.kind(), Kind::TimedOut);
    assert!(error.to_string().contains("has not come to its exec"), "{error}");
    // It thaws: what starts too late is killed at once.
    let _thawed = pipe::open_fifo(&fifo, pipe::FifoEnd::Both).unwrap();
    assert!(tokio::task::spawn_blocking(move || everybody_gone(&read)).await.unwrap());
}

#[tokio::test]
async fn what_a_job_leaves_behind_is_killed_at_its_exit() {
    let (read, write) = pipe::pipe().unwrap();
    let spawn = shell("sleep 1000 & exit 0").inherit(write, 9);
    let outcome = Job::new(spawn, LONG).run().await.unwrap();
    assert!(outcome.exit.success());
    assert!(outcome.took < LONG, "it did not wait for the one left behind");
    assert!(everybody_gone(&read));
}

#[tokio::test]
async fn a_job_may_leave_something_running_if_it_says_so() {
    let spawn = shell("sleep 1000 & echo $!");
    let outcome = Job::new(spawn, LONG).leave_running().run().await.unwrap();
    assert!(outcome.took < LONG, "it did not wait for the pipe to close");
    let pid: i32 = String::from_utf8(outcome.stdout).unwrap().trim().parse().unwrap();
    let pid = Pid::from_raw(pid).unwrap();
    let left = pidfd::open(pid).unwrap();
    assert!(pidfd::alive(&left).unwrap());
    pidfd::send(&left, Signal::KILL).unwrap();
    assert!(pidfd::wait_exited(&left, LONG).unwrap());
}

#[tokio::test]
async fn one_that_fled_the_group_with_the_pipe_delays_only_a_while() {
    let script = "setsid sleep 1000 & echo $!";
    let outcome = Job::new(shell(script), LONG).run().await.unwrap();
    assert!(outcome.took < Duration::from_secs(10), "{:?}", outcome.took);
    let pid: i32 = String::from_utf8(outcome.stdout).unwrap().trim().parse().unwrap();
    // It may or may not have left the group before the kill: both are fine here.
    if let Ok(left) = pidfd::open(Pid::from_raw(pid).unwrap()) {
        let _ = pidfd::send(&left, Signal::KILL);
    }
}

#[tokio::test]
async fn a_program_that_is_not_there_is_not_found() {
    let error = Job::new(Spawn::new("/no/such/program"), LONG).run().await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
}
