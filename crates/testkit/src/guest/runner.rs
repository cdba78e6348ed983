//! Inside the guest: runs each test in a process of its own, with a deadline.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{say, summary};

/// The longest that a test may take, on a machine of hardware.
const DEADLINE: Duration = Duration::from_secs(120);

/// Runs the tests of the list, one name a line, `jobs` at a time, and says how each of them ended.
///
/// # Errors
/// If there is no list.
pub fn run(program: &Path, list: &Path, jobs: usize) -> Result<()> {
    let list = fs::read_to_string(list).context("the list of tests")?;
    let names: Vec<&str> = list.lines().collect();
    let (next, failed, voice) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(()));
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let begin = Instant::now();
                    let outcome = one(program, name);
                    let seconds = begin.elapsed().as_secs_f32();
                    let _whole = voice.lock();
                    match outcome {
                        Ok(()) => say(format_args!("guest: ok {name} ({seconds:.1} s)")),
                        Err(why) => {
                            failed.fetch_add(1, Ordering::Relaxed);
                            say(format_args!("guest: FAILED {name} ({seconds:.1} s)\n{why:#}"));
                        }
                    }
                }
            });
        }
    });
    let failed = failed.load(Ordering::Relaxed);
    say(summary(names.len() - failed, failed));
    Ok(())
}

fn one(program: &Path, name: &str) -> Result<()> {
    let said = tempfile::tempfile().context("a file for what a test says")?;
    let mut test = Command::new(program)
        .args(["--exact", name, "--nocapture"])
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .stderr(said.try_clone()?)
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    let deadline = Instant::now() + crate::patience::here(DEADLINE);
    let ended = loop {
        match test.try_wait()? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => break status.to_string(),
            None if Instant::now() > deadline => {
                let _ = test.kill();
                let _ = test.wait();
                break "it did not end in time".to_owned();
            }
            // A test ends without an event for who waits for two things, its end and a time.
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    let mut text = String::new();
    let mut said = said;
    std::io::Seek::rewind(&mut said)?;
    std::io::Read::read_to_string(&mut said, &mut text)?;
    anyhow::bail!("{ended}; it said:\n{text}")
}
