//! A gigabyte of log: how long it takes, and whose CPU time.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use berth_testkit::specs::Container;

use super::Bench;
use crate::report::{Figure, Report, What};
use crate::subject::Subject;
use crate::subject::cri::CriSubject;
use crate::subject::memory::process_cpu_ms;

/// Bytes of a line, with its end.
const LINE: usize = 100;
/// Lines of the file that the container writes again and again.
const LINES: usize = 100_000;
/// The last line.
const END: &[u8] = b" F the end\n";
/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(300);

const SECONDS: What = What::lower("logs/seconds", "1 GB of log in lines of 100 bytes", "s");
const DAEMON: What = What::lower("logs/daemon", "… CPU of the daemon", "s");
const OTHERS: What = What::lower("logs/others", "… CPU of shims and monitors", "s");
const ALL: What =
    What::lower("logs/all", "… CPU of everybody, the container that writes among them", "s");

/// Clocks of everybody involved, in milliseconds of CPU time.
#[derive(Clone, Copy, Debug)]
struct Clocks {
    daemon: f64,
    others: f64,
    all: Option<f64>,
}

impl Bench {
    /// Lets a container of each CRI subject write a log.
    ///
    /// # Errors
    /// If a call fails, or a line is missing.
    pub(crate) async fn logs(&mut self) -> Result<()> {
        let times = self.amount.log_megabytes / (LINE * LINES / 1_000_000);
        for subject in &mut self.subjects {
            if subject.cri().is_none() {
                continue;
            }
            eprintln!("logs: {} MB of {}", self.amount.log_megabytes, subject.name);
            let name = subject.name.clone();
            one(subject, times, &mut self.report).await.context(name)?;
        }
        Ok(())
    }
}

async fn one(subject: &mut Subject, times: usize, report: &mut Report) -> Result<()> {
    let name = subject.name.clone();
    let cri = subject.cri().context("a socket")?;
    let lines = cri.logs.join("lines");
    write_lines(&lines)?;
    let line = format!(
        "trap 'exit 0' TERM; until [ -e /lines/go ]; do usleep 1000; done; i=0; \
         while [ $i -lt {times} ]; do cat /lines/text; i=$((i+1)); done; echo the end; \
         while :; do sleep 1000 & wait $!; done"
    );
    let container = Container::new("main", &cri.image).shell(&line).mount(&lines, "/lines");
    let log = cri.hold_one("logs", &container).await?;
    let before = clocks(subject).await?;
    File::create(lines.join("go")).context("tell the container to write")?;
    let started = Instant::now();
    while !ends(&log) {
        if started.elapsed() > PATIENCE {
            bail!("{} has no end after {PATIENCE:?}", log.display());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let seconds = started.elapsed().as_secs_f64();
    let after = clocks(subject).await?;
    whole(&log, times * LINES + 1)?;
    let gigabytes = (times * LINES * LINE) as f64 / 1e9;
    let mut put = |what, value: f64| report.put(what, &name, Figure::one(value / gigabytes, 1));
    put(SECONDS, seconds);
    put(DAEMON, (after.daemon - before.daemon) / 1e3);
    put(OTHERS, (after.others - before.others) / 1e3);
    if let (Some(before), Some(after)) = (before.all, after.all) {
        put(ALL, (after - before) / 1e3);
    }
    subject.drain(1).await?;
    fs::remove_file(&log).context("remove the log")?;
    fs::remove_dir_all(&lines).context("remove the lines")
}

/// A file of equal lines for the container, so that writing costs it next to nothing.
fn write_lines(dir: &Path) -> Result<()> {
    let mut line = [b'.'; LINE];
    line[LINE - 1] = b'\n';
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    fs::write(dir.join("text"), line.repeat(LINES)).context("write the lines")
}

/// Whether the last line is there: asked of the file, so that no daemon has work with it.
fn ends(log: &Path) -> bool {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(END.len() as u64)))?;
        let mut end = Vec::new();
        file.read_to_end(&mut end)?;
        Ok(end)
    };
    read().is_ok_and(|end| end == END)
}

/// Fails unless every line is there.
fn whole(log: &Path, expected: usize) -> Result<()> {
    let file = File::open(log).with_context(|| format!("open {}", log.display()))?;
    let mut buffer = vec![0; 1 << 20];
    let (mut lines, mut at) = (0, 0);
    loop {
        let read = file.read_at(&mut buffer, at).context("read the log")?;
        if read == 0 {
            break;
        }
        lines += memchr::memchr_iter(b'\n', &buffer[..read]).count();
        at += read as u64;
    }
    if lines != expected {
        bail!("{} has {lines} lines, not {expected}", log.display());
    }
    Ok(())
}

async fn clocks(subject: &mut Subject) -> Result<Clocks> {
    let others = subject.processes().await?;
    let others = others.into_iter().filter_map(|pid| process_cpu_ms(pid).ok()).sum();
    let all = subject.site().map(|site| site.cpu_ms()).transpose()?;
    let daemon = process_cpu_ms(subject.cri().context("a socket")?.daemon())?;
    Ok(Clocks { daemon, others, all })
}

impl CriSubject {
    /// Runs one container of this kind in a pod that is held; returns where its log is.
    async fn hold_one(&mut self, name: &str, container: &Container) -> Result<std::path::PathBuf> {
        let number = self.number()?;
        let (held, _) = self.begin_with(name, number, container).await?;
        self.hold(held);
        Ok(self.logs.join(name).join("main.0.log"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_seen_and_a_missing_line_too() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("main.0.log");
        assert!(!ends(&log));
        fs::write(&log, "2026-01-01T00:00:00Z stdout F ....\n").unwrap();
        assert!(!ends(&log));
        fs::write(&log, "2026-01-01T00:00:00Z stdout F ....\n2026 stdout F the end\n").unwrap();
        assert!(ends(&log));
        assert!(whole(&log, 2).is_ok());
        assert!(whole(&log, 3).is_err());
        write_lines(dir.path()).unwrap();
        assert_eq!(fs::metadata(dir.path().join("text")).unwrap().len(), 10_000_000);
    }
}
