//! One pod of a CRI subject: how it comes and goes, step by step, and proofs that it did.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use berth_testkit::cri::RunningPod;
use berth_testkit::specs::{Container, Pod};

use super::cri::CriSubject;
use super::handlers::Handler;
use crate::samples::ms;

/// How long a container may take to execute its program after StartContainer has answered.
const PATIENCE: Duration = Duration::from_secs(20);
/// Programs that stand in a container's process before its own does.
const RUNTIMES: [&str; 5] = ["runc", "crun", "youki", "runsc", "berth-helper"];

/// What a container's process comes to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Becomes {
    /// Its own program, in all its processes.
    Execed,
    /// Somebody whom SIGTERM ends.
    Listening,
}

/// Steps of a pod's life with how long each took, in milliseconds.
pub(crate) type Steps = Vec<(&'static str, f64)>;

/// A pod with one container that runs.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) number: usize,
    pub(crate) pod: RunningPod,
    pub(crate) container: String,
}

impl CriSubject {
    /// Runs a pod with one idle container, until its process has execed.
    ///
    /// # Errors
    /// If a call fails, or the container's process stays the OCI runtime.
    pub(crate) async fn begin(&self, number: usize) -> Result<(Held, Steps)> {
        let container = Container::idle("main", &self.image);
        self.begin_with(&format!("pod-{number}"), number, &container).await
    }

    /// As [`CriSubject::begin`], with a container that is given.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn begin_with(
        &self,
        name: &str,
        number: usize,
        container: &Container,
    ) -> Result<(Held, Steps)> {
        let config = self.pod(name, number);
        let started = Instant::now();
        let pod = self.cri.run(&config).await.context("RunPodSandbox")?;
        let run = started.elapsed();
        let id = self.cri.create(&pod, container).await.context("CreateContainer")?;
        let created = started.elapsed();
        self.cri.start(&id).await.context("StartContainer")?;
        let answered = started.elapsed();
        let held = Held { number, pod, container: id };
        let running = match self.is(&held, Becomes::Execed).await? {
            true => answered,
            false => {
                self.becomes(&held, Becomes::Execed).await?;
                started.elapsed()
            }
        };
        let steps = vec![
            ("RunPodSandbox", ms(run)),
            ("CreateContainer", ms(created - run)),
            ("StartContainer", ms(answered - created)),
            ("create + start", ms(running - run)),
            ("running", ms(running)),
        ];
        Ok((held, steps))
    }

    /// Once it listens, stops and removes it as the kubelet does, and looks whether its address is free once
    /// StopPodSandbox has answered.
    ///
    /// # Errors
    /// If a call fails, or the address is still taken.
    pub(crate) async fn end(&self, held: &Held, check: bool) -> Result<Steps> {
        self.becomes(held, Becomes::Listening).await?;
        let ip = if check { self.address(held).await? } else { None };
        let mut steps = Steps::new();
        let started = Instant::now();
        let mut last = Duration::ZERO;
        let mut step = |name| {
            let now = started.elapsed();
            steps.push((name, ms(now - last)));
            last = now;
        };
        self.cri.stop(&held.container, 10).await.context("StopContainer")?;
        step("StopContainer");
        self.cri.remove(&held.container).await.context("RemoveContainer")?;
        step("RemoveContainer");
        self.cri.stop_pod(&held.pod.id).await.context("StopPodSandbox")?;
        step("StopPodSandbox");
        if let Some(ip) = ip {
            self.is_free(&ip)?;
        }
        let before = started.elapsed();
        self.cri.remove_pod(&held.pod.id).await.context("RemovePodSandbox")?;
        let removed = started.elapsed() - before;
        let whole = last + removed;
        steps.extend([("RemovePodSandbox", ms(removed)), ("stop + remove", ms(whole))]);
        Ok(steps)
    }

    /// A pod by a handler until its container runs, in milliseconds; a command in it has then
    /// proved that it does, and it is removed again.
    ///
    /// # Errors
    /// If a call fails.
    pub(crate) async fn running_by(&mut self, handler: &Handler) -> Result<f64> {
        let usual = std::mem::replace(&mut self.handler, handler.name.to_owned());
        let outcome = self.run_and_remove(handler).await;
        self.handler = usual;
        outcome
    }

    async fn run_and_remove(&self, handler: &Handler) -> Result<f64> {
        let number = self.number()?;
        let config = self.pod(&format!("pod-{number}"), number);
        let container = Container::idle("main", &self.image);
        let started = Instant::now();
        let pod = self.cri.run(&config).await.context("RunPodSandbox")?;
        let id = self.cri.create(&pod, &container).await.context("CreateContainer")?;
        self.cri.start(&id).await.context("StartContainer")?;
        let held = Held { number, pod, container: id };
        if !handler.sandboxed {
            self.becomes(&held, Becomes::Execed).await?;
        }
        let running = ms(started.elapsed());
        self.exec(&held.container).await?;
        self.cri.stop(&held.container, 0).await.context("StopContainer")?;
        self.cri.remove(&held.container).await.context("RemoveContainer")?;
        self.cri.stop_pod(&held.pod.id).await.context("StopPodSandbox")?;
        self.cri.remove_pod(&held.pod.id).await.context("RemovePodSandbox")?;
        self.forget(&[number])?;
        Ok(running)
    }

    fn pod(&self, name: &str, number: usize) -> Pod {
        let pod = Pod::new(name).by(&self.handler).logs(self.logs.join(name));
        match &self.cgroups {
            Some(parent) => pod.cgroup_parent(&format!("{parent}/{number}")),
            None => pod,
        }
    }

    async fn address(&self, held: &Held) -> Result<Option<String>> {
        if self.site().is_none() {
            return Ok(None);
        }
        let status = self.cri.pod_status(&held.pod.id).await.context("PodSandboxStatus")?;
        let ip = status.network.context("the pod's network")?.ip;
        let site = self.site().context("a site")?;
        if !site.leases()?.contains(&ip) {
            bail!("the address {ip} of a running pod is not in host-local's directory");
        }
        Ok(Some(ip))
    }

    fn is_free(&self, ip: &String) -> Result<()> {
        match self.site() {
            Some(site) if site.leases()?.contains(ip) => {
                bail!("StopPodSandbox has answered and the address {ip} is still taken")
            }
            _ => Ok(()),
        }
    }

    /// Waits until the container's process has execed.
    ///
    /// # Errors
    /// If it stays the OCI runtime.
    pub(crate) async fn execs(&self, held: &Held) -> Result<()> {
        self.becomes(held, Becomes::Execed).await
    }

    /// Waits until the container's process is what this says.
    async fn becomes(&self, held: &Held, what: Becomes) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.is(held, what).await? {
            if Instant::now() > deadline {
                bail!("{what:?} is not true of container {} after {PATIENCE:?}", held.container);
            }
            // The kernel announces neither to a stranger.
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        Ok(())
    }

    /// Asks the kernel where the container's cgroup is known, otherwise the runtime for its pid.
    async fn is(&self, held: &Held, what: Becomes) -> Result<bool> {
        if let Some(site) = self.site() {
            let cgroup = site.container_cgroup(held.number, &held.container);
            let procs = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
            let mut pids = procs.lines().map(|pid| format!("/proc/{pid}"));
            return Ok(match what {
                Becomes::Execed => !procs.is_empty() && pids.all(|process| execed(&process)),
                Becomes::Listening => pids.any(|process| listens(&process)),
            });
        }
        // A runtime that does not tell the pid is believed.
        let Some(pid) = self.pid(&held.container).await? else { return Ok(true) };
        let process = format!("/proc/{}/root/proc/{pid}", self.daemon());
        Ok(match what {
            Becomes::Execed => execed(&process),
            Becomes::Listening => listens(&process),
        })
    }

    /// The pid of a container's first process in the daemon's view, if verbose status tells.
    ///
    /// # Errors
    /// If the call fails.
    pub(crate) async fn pid(&self, container: &str) -> Result<Option<u32>> {
        let details = self.cri.container_details(container).await.context("ContainerStatus")?;
        let info = details.info.get("info").map_or("{}", String::as_str);
        let info: serde_json::Value = serde_json::from_str(info).unwrap_or_default();
        Ok(info["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0))
    }
}

/// Whether a process (its directory in /proc) runs its own program and no longer the OCI runtime.
pub(crate) fn execed(process: &str) -> bool {
    let program = std::fs::read_link(Path::new(process).join("exe"));
    program.is_ok_and(|program| !is_runtime(&program))
}

/// Whether a process has set up what it does at SIGTERM: until then the kernel drops the signal,
/// since it is the first of its PID namespace.
pub(crate) fn listens(process: &str) -> bool {
    let status = std::fs::read_to_string(Path::new(process).join("status")).unwrap_or_default();
    catches_term(&status)
}

fn catches_term(status: &str) -> bool {
    const TERM: u64 = 1 << 14;
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.is_some_and(|mask| mask & TERM != 0)
}

fn is_runtime(program: &Path) -> bool {
    // A runtime may run from a sealed copy of itself: `/memfd:runc_cloned:/proc/self/exe`, or
    // from a bind mount that is detached already: `/`.
    let text = program.to_string_lossy();
    let name = text.trim_end_matches(" (deleted)").rsplit('/').next().unwrap_or_default();
    name.is_empty() || text.starts_with("/memfd:") || RUNTIMES.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_is_known_by_its_program() {
        for runtime in ["/usr/sbin/runc", "/memfd:runc_cloned:/proc/self/exe (deleted)", "/"] {
            assert!(is_runtime(Path::new(runtime)), "{runtime}");
        }
        for own in ["/bin/busybox", "/bin/runc-wrapper"] {
            assert!(!is_runtime(Path::new(own)), "{own}");
        }
        assert!(!execed("/proc/0"));
    }

    #[test]
    fn a_handler_of_sigterm_is_seen() {
        assert!(catches_term("SigIgn:\t0000000000000000\nSigCgt:\t0000000000014002\n"));
        assert!(!catches_term("SigIgn:\t0000000000004000\nSigCgt:\t0000000000010002\n"));
    }
}
