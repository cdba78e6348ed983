//! Outside of the guest: boots it with QEMU and judges what it says.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::disk::{self, Load};
use super::{Driver, say, summary};
use crate::paths;

/// What is run, and for how long at most.
#[derive(Debug)]
pub struct Request<'a> {
    /// The program of the tests.
    pub tests: &'a Path,
    /// The file that says which of them: the beginning of a name a line, the driver, and why.
    pub selection: &'a Path,
    /// Only those that contain one of these words, if there are any.
    pub only: &'a [String],
    /// How cgroups are made.
    pub driver: Driver,
    /// The whole run's deadline.
    pub deadline: Duration,
}

/// Boots the guest, runs the tests in it and says whether all of them passed.
///
/// # Errors
/// If the guest cannot be made or booted, or does not come to its end.
pub fn run(request: &Request<'_>) -> Result<bool> {
    let home = paths::target().join("guest");
    let emulated = !has_real_kvm();
    let names = chosen(request)?;
    let load = Load { tests: request.tests, names: &names, driver: request.driver, emulated };
    let tests = disk::make(&load, &home)?;
    let kind = if emulated { "emulated" } else { "by KVM" };
    let (count, driver) = (names.len(), request.driver.name());
    say(format_args!("guest: {count} tests with the driver {driver}, {kind}"));
    let begin = Instant::now();
    let log = home.join(format!("{}.log", request.driver.name()));
    let mut machine = Machine::boot(&home, &tests, emulated)?;
    let last = machine.follow(&log, begin + request.deadline)?;
    let seconds = begin.elapsed().as_secs();
    say(format_args!("guest: {seconds} s; what it said is in {}", log.display()));
    Ok(last == summary(names.len(), 0))
}

/// The tests of the program that the selection names.
fn chosen(request: &Request<'_>) -> Result<Vec<String>> {
    let text = fs::read_to_string(request.selection).context("the selection of tests")?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let wanted: Vec<&str> = lines.filter_map(|line| of_driver(line, request.driver)).collect();
    let output = Command::new(request.tests).arg("--list").output().context("list the tests")?;
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    let all: Vec<&str> = listed.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    for begin in &wanted {
        if !all.iter().any(|name| name.starts_with(begin)) {
            bail!("{}: there is no test {begin}", request.selection.display());
        }
    }
    let is_wanted = |name: &&&str| {
        let only = request.only;
        wanted.iter().any(|begin| name.starts_with(begin))
            && (only.is_empty() || only.iter().any(|word| name.contains(word.as_str())))
    };
    let names: Vec<_> = all.iter().filter(is_wanted).map(|name| (*name).to_owned()).collect();
    if names.is_empty() { bail!("no test is chosen") } else { Ok(names) }
}

/// The name of a line `NAME DRIVER REASON`, if the driver is this one, or any.
fn of_driver(line: &str, driver: Driver) -> Option<&str> {
    let mut words = line.split_whitespace();
    let name = words.next()?;
    words.next().filter(|word| *word == "both" || *word == driver.name()).map(|_| name)
}

/// Whether there is a KVM that runs any kernel: one that the processor does (`vmx`, `svm`), not one
/// that a module imitates.
fn has_real_kvm() -> bool {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = processors.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    flags.split_whitespace().any(|flag| matches!(flag, "vmx" | "svm"))
        && !Path::new("/sys/module/kvm_pvm").exists()
        && File::options().read(true).write(true).open("/dev/kvm").is_ok()
}

/// A guest that runs; killed on drop.
struct Machine(Child);

impl Machine {
    /// Its console is standard output, and the tests' serial line too.
    fn boot(home: &Path, tests: &Path, emulated: bool) -> Result<Self> {
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-M", "q35", "-smp", "2", "-m", "4096", "-nographic", "-nodefaults"]);
        qemu.args(["-no-user-config", "-no-reboot"]);
        // QEMU 7.2's cmpxchg16b breaks kernels on q35.
        qemu.args(if emulated {
            ["-accel", "tcg,thread=multi", "-cpu", "max,-cx16"]
        } else {
            ["-accel", "kvm", "-cpu", "host"]
        });
        qemu.arg("-kernel").arg(home.join("vmlinuz")).arg("-initrd").arg(home.join("initrd"));
        qemu.args(["-append", ARGUMENTS]);
        qemu.arg("-serial").arg(format!("file:{}", home.join("console").display()));
        qemu.args(["-chardev", "stdio,id=tests", "-serial", "chardev:tests"]);
        for (name, image) in [("root", home.join("root.ext4")), ("tests", PathBuf::from(tests))] {
            let drive = format!(
                "if=none,id={name},file={},format=raw,snapshot=on,cache=unsafe",
                image.display()
            );
            qemu.args(["-drive", &drive, "-device", &format!("virtio-blk-pci,drive={name}")]);
        }
        // What the guest writes goes to files without a name.
        qemu.env("TMPDIR", home).stdin(Stdio::null()).stdout(Stdio::piped());
        let child = qemu.spawn().context("start qemu-system-x86_64 (apt: qemu-system-x86)")?;
        Ok(Self(child))
    }

    /// Shows what the tests say until the guest is off; returns the last line.
    fn follow(&mut self, log: &Path, deadline: Instant) -> Result<String> {
        let mut log = File::create(log).with_context(|| format!("write {}", log.display()))?;
        let said = BufReader::new(self.0.stdout.take().context("the guest's serial line")?);
        let (send, lines) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            for line in said.split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let mut last = String::new();
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    say(&line);
                    writeln!(log, "{line}")?;
                    if line.starts_with("guest: ") {
                        last = line;
                    }
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => bail!("the guest did not end in time"),
            }
        }
        let _ = reader.join();
        let status = self.0.wait()?;
        if status.success() { Ok(last) } else { bail!("qemu-system-x86_64: {status}") }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the kernel is told: its console, and to trust the clock that QEMU gives it.
const ARGUMENTS: &str = "console=ttyS0 panic=-1 reboot=t tsc=reliable no_timer_check mitigations=off \
     systemd.unit=tests.service systemd.mask=systemd-journal-flush.service";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_selection_names_a_test_and_a_driver() {
        let line = |driver: &str| format!("pods::a_pod  {driver}  the life of a pod");
        for (driver, cgroupfs, systemd) in [
            ("both", true, true),
            ("cgroupfs", true, false),
            ("systemd", false, true),
            ("", false, false),
        ] {
            let is = |by| of_driver(&line(driver), by) == Some("pods::a_pod");
            assert_eq!(
                (is(Driver::Cgroupfs), is(Driver::Systemd)),
                (cgroupfs, systemd),
                "{driver}"
            );
        }
    }

    #[test]
    fn the_selection_names_tests_that_there_are() {
        let text = include_str!("../../../../tools/guest/tests");
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e");
        let mut count = 0;
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let name = [Driver::Cgroupfs, Driver::Systemd].iter().find_map(|d| of_driver(line, *d));
            let module = name.and_then(|name| name.split("::").next()).expect(line);
            let file = tests.join(format!("{module}.rs"));
            assert!(file.exists() || tests.join(module).is_dir(), "{line}");
            assert!(line.split_whitespace().count() > 2, "{line} has no reason");
            count += 1;
        }
        assert!(count > 20);
    }
}
