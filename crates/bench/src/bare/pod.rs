//! One pod of the bare commands.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use berth_sys::mounts::{Overlay, unmount};
use berth_sys::namespace::{Namespace, pin, unpin, unshare};
use berth_sys::{netdev, pidfd};
use serde_json::{Value, json};

use super::orders::Plan;
use super::plugins::Chain;
use crate::samples::ms;
use crate::subject::pod::{execed, listens};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Steps with how long each took, in milliseconds.
pub(super) type Steps = Vec<(String, f64)>;

/// What pods are made with.
#[derive(Debug)]
pub(super) struct Maker {
    plan: Plan,
    chain: Chain,
}

/// A pod that runs.
#[derive(Debug)]
pub(super) struct Running {
    id: String,
    netns: PathBuf,
    bundle: PathBuf,
    layer: PathBuf,
    result: Value,
    pid: rustix::process::Pid,
}

impl Maker {
    /// Prepares to make pods by this plan.
    ///
    /// # Errors
    /// If a plugin is missing.
    pub(super) fn new(plan: Plan) -> Result<Self> {
        let chain = Chain::new(&plan.list, &plan.dirs)?;
        fs::create_dir_all(&plan.run).context("make the directory of bundles")?;
        fs::create_dir_all(&plan.disk).context("make the directory of writable layers")?;
        Ok(Self { plan, chain })
    }

    /// A network namespace, ADD, an overlay, `create` and `start`, until the process has execed.
    ///
    /// # Errors
    /// If a command fails.
    pub(super) fn begin(&self, number: usize) -> Result<(Running, Steps)> {
        let id = format!("bare-{number}");
        let started = Instant::now();
        let netns = network_namespace(&id)?;
        let result = self.chain.add(&id, &netns)?;
        let attached = started.elapsed();
        let bundle = self.plan.run.join(&id);
        let layer = self.plan.disk.join(&id);
        self.bundle(&bundle, &layer, number)?;
        let pid_file = bundle.join("pid");
        let create = ["create", "--bundle", text(&bundle)?, "--pid-file", text(&pid_file)?, &id];
        self.runtime(&id, &create)?;
        self.runtime(&id, &["start", &id])?;
        let pid = fs::read_to_string(&pid_file).context("read the pid file")?;
        let pid = pid.trim().parse().ok().and_then(rustix::process::Pid::from_raw);
        let pid = pid.context("a pid in the pid file")?;
        wait_until(pid, execed)?;
        let running = started.elapsed();
        let steps = vec![
            ("RunPodSandbox".to_owned(), ms(attached)),
            ("create + start".to_owned(), ms(running - attached)),
            ("running".to_owned(), ms(running)),
        ];
        Ok((Running { id, netns, bundle, layer, result, pid }, steps))
    }

    /// `exec` of `true`.
    ///
    /// # Errors
    /// If it fails.
    pub(super) fn probe(&self, pod: &Running) -> Result<f64> {
        let started = Instant::now();
        self.runtime(&pod.id, &["exec", &pod.id, "true"])?;
        Ok(ms(started.elapsed()))
    }

    /// `kill`, the exit, `delete`, the overlay, DEL, the network namespace.
    ///
    /// # Errors
    /// If a command fails.
    pub(super) fn end(&self, pod: &Running) -> Result<Steps> {
        wait_until(pod.pid, listens)?;
        let started = Instant::now();
        let process = pidfd::open(pod.pid)?;
        self.runtime(&pod.id, &["kill", &pod.id, "TERM"])?;
        if !pidfd::wait_exited(&process, PATIENCE)? {
            bail!("{} does not end after TERM", pod.id);
        }
        // A subreaper's child now: `create` has ended.
        rustix::process::waitpid(Some(pod.pid), rustix::process::WaitOptions::empty())
            .context("reap a container's process")?;
        let exited = started.elapsed();
        self.runtime(&pod.id, &["delete", &pod.id])?;
        unmount(pod.bundle.join("rootfs"))?;
        let deleted = started.elapsed();
        self.chain.del(&pod.id, &pod.netns, &pod.result)?;
        unpin(&pod.netns)?;
        let detached = started.elapsed();
        fs::remove_dir_all(&pod.bundle).context("remove a bundle")?;
        fs::remove_dir_all(&pod.layer).context("remove a writable layer")?;
        Ok(vec![
            ("StopContainer".to_owned(), ms(exited)),
            ("StopPodSandbox".to_owned(), ms(detached - deleted)),
            ("stop + remove".to_owned(), ms(started.elapsed())),
        ])
    }

    fn bundle(&self, bundle: &Path, layer: &Path, number: usize) -> Result<()> {
        let rootfs = bundle.join("rootfs");
        let (upper, work) = (layer.join("upper"), layer.join("work"));
        fs::create_dir(bundle).context("make a bundle")?;
        fs::create_dir(layer).context("make a writable layer")?;
        for dir in [&rootfs, &upper, &work] {
            fs::create_dir(dir).with_context(|| format!("make {}", dir.display()))?;
        }
        let lower = self.plan.lower.clone();
        let upper = Some((upper, work));
        Overlay { lower, upper, volatile: true, options: Vec::new() }.mount(&rootfs)?;
        let spec = self.spec(number);
        fs::write(bundle.join("config.json"), spec.to_string()).context("write config.json")
    }

    /// The plan's spec with the paths of one pod.
    fn spec(&self, number: usize) -> Value {
        let mut spec = self.plan.spec.clone();
        spec["linux"]["cgroupsPath"] = json!(format!("{}/{number}/bare", self.plan.cgroups));
        let namespaces = spec["linux"]["namespaces"].as_array_mut();
        for namespace in namespaces.into_iter().flatten() {
            if namespace["type"] == "network" {
                namespace["path"] = json!(format!("/run/netns/bare-{number}"));
            }
        }
        spec
    }

    fn runtime(&self, id: &str, words: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.plan.runtime);
        command.arg("--root").arg(self.plan.run.join("oci")).args(words);
        let log = self.plan.disk.join(id).join("runtime.log");
        let said = fs::File::create(&log).context("a file for the runtime's words")?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        let status = command.status().with_context(|| format!("start {command:?}"))?;
        if !status.success() {
            let said = fs::read_to_string(&log).unwrap_or_default();
            bail!("{command:?}: {status}: {said}");
        }
        Ok(())
    }
}

/// Makes and pins a network namespace whose loopback is up.
fn network_namespace(id: &str) -> Result<PathBuf> {
    let path = Path::new("/run/netns").join(id);
    std::thread::scope(|scope| {
        let make = || -> Result<()> {
            unshare(&[Namespace::Net])?;
            netdev::loopback_up()?;
            pin("/proc/thread-self/ns/net", &path).map_err(Into::into)
        };
        scope.spawn(make).join().map_err(|_| anyhow!("a thread panicked"))?
    })?;
    Ok(path)
}

fn wait_until(pid: rustix::process::Pid, is: fn(&str) -> bool) -> Result<()> {
    let process = format!("/proc/{}", pid.as_raw_nonzero());
    let deadline = Instant::now() + PATIENCE;
    while !is(&process) {
        if Instant::now() > deadline {
            bail!("{process} has not become what it must after {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path in UTF-8")
}
