//! The subject that is only commands: network namespace, CNI plugins, overlay, OCI runtime.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::pod::Steps;
use super::site::{Program, SELF, Site};
use crate::bare::orders::{Answer, Order, Plan};
use crate::samples::Samples;

/// The driver in its node.
#[derive(Debug)]
pub(crate) struct Bare {
    // Dropped in this order.
    driver: Driver,
    pub(crate) site: Site,
    held: Vec<usize>,
    next: usize,
}

#[derive(Debug)]
struct Driver {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Bare {
    /// Starts the driver with what a Berth of the same node wrote for such a container.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn start(
        site: Site,
        spec: Value,
        lower: Vec<PathBuf>,
        runtime: PathBuf,
    ) -> Result<Self> {
        let plan = Plan {
            runtime,
            spec: bare_spec(spec, &site)?,
            lower,
            disk: site.node.disk().join("bare"),
            run: PathBuf::from("/run/bare"),
            list: site.node.config().network().context("a pod network")?.clone(),
            dirs: site.node.config().plugin_dirs(),
            cgroups: format!("{}/pods", site.node.parent().path()),
        };
        let path = site.node.disk().join("plan.json");
        fs::write(&path, serde_json::to_vec(&plan)?).context("write the plan")?;
        let args = vec!["bare".to_owned(), path.display().to_string()];
        let env = [("PATH".to_owned(), "/usr/sbin:/usr/bin:/sbin:/bin".to_owned())].into();
        let mut command = site.command(&Program { path: SELF.into(), args, env });
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = site.start(&mut command)?;
        let orders = child.stdin.take().context("the driver's standard input")?;
        let answers = BufReader::new(child.stdout.take().context("the driver's standard output")?);
        let driver = Driver { child, orders, answers };
        Ok(Self { driver, site, held: Vec::new(), next: 0 })
    }

    fn ask(&mut self, order: &Order) -> Result<Answer> {
        let mut line = serde_json::to_string(order).context("an order")?;
        line.push('\n');
        self.driver.orders.write_all(line.as_bytes()).context("order the bare commands")?;
        line.clear();
        self.driver.answers.read_line(&mut line).context("wait for the bare commands")?;
        match serde_json::from_str(&line).with_context(|| format!("an answer in {line:?}"))? {
            Answer::Failed(why) => bail!("the bare commands: {why}"),
            answer => Ok(answer),
        }
    }

    fn seconds(&mut self, order: &Order) -> Result<f64> {
        match self.ask(order)? {
            Answer::Seconds(seconds) => Ok(seconds),
            other => bail!("{order:?} is answered with {other:?}"),
        }
    }

    /// One pod from its beginning to its end.
    ///
    /// # Errors
    /// If a command fails.
    pub(crate) fn life(&mut self) -> Result<Steps> {
        let number = self.numbers(1)?[0];
        let answer = self.ask(&Order::Life { number })?;
        self.forget(&[number])?;
        let Answer::Steps(steps) = answer else { bail!("a life is answered with {answer:?}") };
        Ok(steps.into_iter().filter_map(|(name, ms)| Some((known(&name)?, ms))).collect())
    }

    /// Starts this many more pods; returns the seconds.
    ///
    /// # Errors
    /// If a command fails.
    pub(crate) fn fill(&mut self, count: usize, workers: usize) -> Result<f64> {
        let numbers = self.numbers(count)?;
        self.held.extend(&numbers);
        self.seconds(&Order::Fill { numbers, workers })
    }

    /// Removes every pod that is held; returns the seconds.
    ///
    /// # Errors
    /// If a command fails.
    pub(crate) fn drain(&mut self, workers: usize) -> Result<f64> {
        let held = std::mem::take(&mut self.held);
        let seconds = self.seconds(&Order::Drain { workers })?;
        self.forget(&held)?;
        Ok(seconds)
    }

    /// Starts and removes this many pods; returns the seconds.
    ///
    /// # Errors
    /// If a command fails.
    pub(crate) fn churn(&mut self, count: usize, workers: usize) -> Result<f64> {
        let numbers = self.numbers(count)?;
        let seconds = self.seconds(&Order::Churn { numbers: numbers.clone(), workers })?;
        self.forget(&numbers)?;
        Ok(seconds)
    }

    /// Runs `true` this often in a pod that is held.
    ///
    /// # Errors
    /// If a command fails.
    pub(crate) fn probes(&mut self, count: usize) -> Result<Samples> {
        match self.ask(&Order::Probes { count })? {
            Answer::Samples(times) => Ok(times.into_iter().collect()),
            other => bail!("probes are answered with {other:?}"),
        }
    }

    fn numbers(&mut self, count: usize) -> Result<Vec<usize>> {
        let numbers: Vec<_> = (self.next..self.next + count).collect();
        self.next += count;
        numbers.iter().try_for_each(|number| self.site.make_pod_cgroup(*number).map(drop))?;
        Ok(numbers)
    }

    fn forget(&self, numbers: &[usize]) -> Result<()> {
        numbers.iter().try_for_each(|number| self.site.remove_pod_cgroup(*number))?;
        if self.held.is_empty() { self.site.network_is_clean() } else { Ok(()) }
    }

    /// The cgroups of the containers that run, as the memory of pods is told from theirs.
    pub(crate) fn containers(&self) -> Vec<PathBuf> {
        self.held.iter().map(|number| PathBuf::from(format!("pods/{number}/bare"))).collect()
    }
}

/// Step names are static everywhere else.
fn known(name: &str) -> Option<&'static str> {
    const NAMES: [&str; 7] = [
        "RunPodSandbox",
        "create + start",
        "running",
        "ExecSync",
        "StopContainer",
        "StopPodSandbox",
        "stop + remove",
    ];
    NAMES.into_iter().find(|known| *known == name)
}

/// Whether a path is one of Berth's own.
fn berths(path: &str) -> bool {
    ["/run/berth/", "/var/lib/berth/"].iter().any(|dir| path.starts_with(dir))
}

/// Berth's spec for a container without what Berth made beside it: the runtime makes the ipc and
/// uts namespaces itself, and all pods share three files.
fn bare_spec(mut spec: Value, site: &Site) -> Result<Value> {
    let files = site.node.disk().join("bare-files");
    fs::create_dir_all(&files).context("make the pods' files")?;
    spec["root"]["path"] = json!("rootfs");
    for namespace in spec["linux"]["namespaces"].as_array_mut().into_iter().flatten() {
        if namespace["type"] != "network" {
            namespace.as_object_mut().map(|namespace| namespace.remove("path"));
        }
    }
    for mount in spec["mounts"].as_array_mut().context("mounts in config.json")? {
        let inside = mount["destination"].as_str().unwrap_or_default().to_owned();
        if inside == "/dev/shm" {
            let options = ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"];
            *mount = json!({"destination": inside, "type": "tmpfs", "source": "shm",
                "options": options});
        } else if mount["source"].as_str().is_some_and(berths) {
            let name = inside.rsplit('/').next().unwrap_or_default();
            fs::write(files.join(name), "127.0.0.1 localhost\n").context("write a pod's file")?;
            mount["source"] = json!(files.join(name));
        }
    }
    Ok(spec)
}
