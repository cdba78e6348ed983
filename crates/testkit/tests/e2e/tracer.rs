//! The tracer, tested on a stand-in daemon: a script that writes begin and end lines.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use berth_testkit::crash::{Side, Strike, Traced};

/// Starts a script that waits for a line, then writes three points and other lines to the file
/// that is its stderr.
fn stand_in(log: &std::path::Path) -> Result<std::process::Child> {
    // Not a shell: its `>&2` writes to a copy of the descriptor.
    let script = "<STDIN>; for $n (1..3) { syswrite STDERR, \"noise\\n\"; \
                  syswrite STDERR, \"effect=begin n=$n\\n\"; syswrite STDOUT, $n } <STDIN>";
    Command::new("perl")
        .args(["-e", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(log)?)
        .spawn()
        .context("start the stand-in")
}

fn run(strike: Option<Strike>) -> Result<(Vec<String>, bool, String)> {
    use std::io::Write as _;
    let dir = tempfile::tempdir()?;
    let log = dir.path().join("log");
    let mut daemon = stand_in(&log)?;
    let traced = Traced::attach(daemon.id(), strike)?;
    let mut stdin = daemon.stdin.take().context("stdin")?;
    stdin.write_all(b"go\nend\n")?;
    let killed = traced.killed()?;
    drop(traced);
    daemon.wait()?;
    let lines = std::fs::read_to_string(&log)?;
    let points = lines.lines().filter(|line| line.contains("effect")).map(str::to_owned).collect();
    Ok((points, killed, lines))
}

#[test]
fn an_undisturbed_run_shows_every_point() -> Result<()> {
    let (points, killed, _) = run(None)?;
    assert_eq!(points, ["effect=begin n=1", "effect=begin n=2", "effect=begin n=3"]);
    assert!(!killed);
    Ok(())
}

#[test]
fn before_a_point_means_that_its_line_is_never_written() -> Result<()> {
    let (points, killed, lines) = run(Some(Strike { number: 2, side: Side::Before }))?;
    assert_eq!(points, ["effect=begin n=1"]);
    assert!(killed);
    assert!(lines.ends_with("noise\n"), "{lines}");
    Ok(())
}

#[test]
fn after_a_point_means_that_nothing_follows_its_line() -> Result<()> {
    let (points, killed, lines) = run(Some(Strike { number: 2, side: Side::After }))?;
    assert_eq!(points, ["effect=begin n=1", "effect=begin n=2"]);
    assert!(killed);
    assert!(lines.ends_with("n=2\n"), "{lines}");
    Ok(())
}
