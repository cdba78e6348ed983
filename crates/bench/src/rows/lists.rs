//! Lists, statistics, the kubelet's polling and a restart, while pods are held.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use berth_proto::cri::v1 as cri;
use berth_testkit::cri::in_time;

use super::Bench;
use crate::report::{Figure, What};
use crate::samples::{Samples, ms};
use crate::subject::Subject;
use crate::subject::cri::CriSubject;
use crate::subject::memory::process_cpu_ms;

/// How often each list is asked for.
const LISTS: usize = 20;
/// How long a daemon may take until it lists everything.
const PATIENCE: Duration = Duration::from_secs(60);

const PODS: What = What::lower("lists/ListPodSandbox", "ListPodSandbox, {all} pods", "ms");
const CONTAINERS: What = What::lower("lists/ListContainers", "ListContainers, {all} pods", "ms");
const CONTAINER_STATS: What =
    What::lower("lists/ListContainerStats", "ListContainerStats, {all} pods", "ms");
const POD_STATS: What =
    What::lower("lists/ListPodSandboxStats", "ListPodSandboxStats, {all} pods", "ms");
const METRICS: What =
    What::lower("lists/ListPodSandboxMetrics", "ListPodSandboxMetrics, {all} pods", "ms");
const IDLE: What = What::lower("idle/cpu", "CPU under the kubelet's polling, {all} pods", "ms/s");
const RESTART: What =
    What::lower("restart/listed", "SIGKILL, start: until {all} pods are listed right", "ms");

/// A list, by the call that asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    Pods,
    Containers,
    ContainerStats,
    PodStats,
    Metrics,
}

impl CriSubject {
    /// Asks for a list and returns how long it is.
    async fn list(&self, list: List) -> Result<usize> {
        let mut client = self.cri.runtime.clone();
        Ok(match list {
            List::Pods => self.cri.pods().await?.len(),
            List::Containers => self.cri.containers().await?.len(),
            List::ContainerStats => {
                let request = in_time(cri::ListContainerStatsRequest { filter: None });
                client.list_container_stats(request).await?.into_inner().stats.len()
            }
            List::PodStats => {
                let request = in_time(cri::ListPodSandboxStatsRequest { filter: None });
                client.list_pod_sandbox_stats(request).await?.into_inner().stats.len()
            }
            List::Metrics => {
                let request = in_time(cri::ListPodSandboxMetricsRequest {});
                client.list_pod_sandbox_metrics(request).await?.into_inner().pod_metrics.len()
            }
        })
    }

    /// Whether the runtime has the series of cAdvisor.
    async fn has_metrics(&self) -> Result<bool> {
        let request = in_time(cri::ListMetricDescriptorsRequest {});
        match self.cri.runtime.clone().list_metric_descriptors(request).await {
            Ok(answer) => Ok(!answer.into_inner().descriptors.is_empty()),
            Err(status) if status.code() == tonic::Code::Unimplemented => Ok(false),
            Err(status) => Err(status).context("ListMetricDescriptors"),
        }
    }

    /// How long a list of so many entries takes.
    ///
    /// # Errors
    /// If the call fails, or the list is not complete.
    pub(super) async fn lists(&self, list: List, held: usize) -> Result<Samples> {
        let mut samples = Samples::default();
        for number in 0..=LISTS {
            let started = Instant::now();
            let length = self.list(list).await.with_context(|| format!("{list:?}"))?;
            let took = ms(started.elapsed());
            // Others may have pods behind a socket that is not this bench's own.
            if length < held || (self.site().is_some() && length != held) {
                bail!("the list {list:?} has {length} entries and not {held}");
            }
            // The first finds nothing warm.
            if number > 0 {
                samples.push(took);
            }
        }
        Ok(samples)
    }

    /// Asks as the kubelet does, for so many seconds: lists each second, Status each five,
    /// statistics each ten.
    async fn polling(&self, seconds: u64) -> Result<()> {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        for second in 0..seconds {
            tick.tick().await;
            self.list(List::Pods).await?;
            self.list(List::Containers).await?;
            if second % 5 == 0 {
                self.cri.status().await?;
            }
            if second % 10 == 0 {
                self.list(List::PodStats).await?;
                self.list(List::ContainerStats).await?;
            }
        }
        tick.tick().await;
        Ok(())
    }

    /// Whether every pod that is held is listed READY, its container RUNNING, and nothing else.
    async fn lists_all(&self) -> Result<bool> {
        let pods = self.cri.pods().await?;
        let ready = pods.iter().filter(|pod| pod.state() == cri::PodSandboxState::SandboxReady);
        let ready: BTreeSet<_> = ready.map(|pod| &pod.id).collect();
        let containers = self.cri.containers().await?;
        let running = containers
            .iter()
            .filter(|container| container.state() == cri::ContainerState::ContainerRunning);
        let running: BTreeSet<_> = running.map(|container| &container.id).collect();
        let held = self.held();
        Ok(pods.len() == held.len()
            && containers.len() == held.len()
            && held.iter().all(|held| ready.contains(&held.pod.id))
            && held.iter().all(|held| running.contains(&held.container)))
    }

    /// Kills the daemon and starts it; returns how long until everything is listed right.
    async fn restart(&mut self) -> Result<f64> {
        self.crash()?;
        let started = Instant::now();
        loop {
            self.reconnect().await?;
            if self.lists_all().await.is_ok_and(|all| all) {
                return Ok(ms(started.elapsed()));
            }
            if started.elapsed() > PATIENCE {
                bail!("{PATIENCE:?} after its start the daemon does not list all pods right");
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Bench {
    /// Measures the lists of a subject whose pods are held.
    ///
    /// # Errors
    /// If a call fails, or a list is not complete.
    pub(crate) async fn lists(&mut self, subject: &mut Subject) -> Result<()> {
        let name = subject.name.clone();
        let Some(cri) = subject.cri() else { return Ok(()) };
        let held = cri.held().len();
        for (list, what) in [
            (List::Pods, PODS),
            (List::Containers, CONTAINERS),
            (List::ContainerStats, CONTAINER_STATS),
            (List::PodStats, POD_STATS),
        ] {
            self.report.put_samples(what, &name, &cri.lists(list, held).await?);
        }
        if cri.has_metrics().await? {
            self.report.put_samples(METRICS, &name, &cri.lists(List::Metrics, held).await?);
        }
        Ok(())
    }

    /// Measures the CPU time that the kubelet's polling costs.
    ///
    /// # Errors
    /// If a call fails.
    pub(crate) async fn idle(&mut self, subject: &mut Subject) -> Result<()> {
        let before = cpu(subject).await?;
        let name = subject.name.clone();
        let Some(cri) = subject.cri() else { return Ok(()) };
        let seconds = self.amount.polling;
        cri.polling(seconds).await?;
        let spent = cpu(subject).await? - before;
        self.report.put(IDLE, &name, Figure::one(spent / seconds as f64, 1));
        Ok(())
    }

    /// Measures restarts.
    ///
    /// # Errors
    /// If the daemon does not come back, or loses a pod.
    pub(crate) async fn restarts(&mut self, subject: &mut Subject) -> Result<()> {
        let name = subject.name.clone();
        let Some(cri) = subject.cri() else { return Ok(()) };
        if cri.site().is_none() {
            return Ok(());
        }
        let mut samples = Samples::default();
        for _ in 0..self.amount.restarts {
            samples.push(cri.restart().await?);
        }
        self.report.put_samples(RESTART, &name, &samples);
        Ok(())
    }
}

/// CPU time of a subject without its containers: of all that ran in its cgroups or, where those
/// are not known, of the processes that there are.
async fn cpu(subject: &mut Subject) -> Result<f64> {
    if let Some(site) = subject.site() {
        return Ok(site.cpu_ms()? - site.containers_cpu_ms()?);
    }
    let others = subject.processes().await?;
    let daemon = subject.cri().context("a socket")?.daemon();
    let all = others.into_iter().filter_map(|pid| process_cpu_ms(pid).ok());
    Ok(all.sum::<f64>() + process_cpu_ms(daemon)?)
}
