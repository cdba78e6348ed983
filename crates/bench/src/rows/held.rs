//! What is measured while pods are held: memory, CPU, lists.

use anyhow::{Context as _, Result};

use super::Bench;
use crate::report::{Figure, Report, What};
use crate::subject::Subject;
use crate::subject::memory::Memory;

const MB: f64 = 1e6;
/// How many exec probes their CPU is measured with.
const PROBES: usize = 50;

const POD: What = What::lower("memory/pod", "memory of each further pod", "MB");
const POD_PROCESSES: What = What::lower("memory/pod processes", "… its processes", "MB");
const POD_KERNEL: What = What::lower("memory/pod kernel", "… the kernel for it", "MB");
const POD_CACHES: What =
    What::lower("memory/pod caches", "(caches for it, which the kernel takes back)", "MB");
const POD_DAEMON: What = What::lower("memory/pod daemon", "… of them the daemon's growth", "MB");
const THREADS: What = What::lower("memory/threads", "threads of the daemon at {all} pods", "");
const DESCRIPTORS: What =
    What::lower("memory/descriptors", "descriptors of the daemon for each pod", "");
const START_CPU: What = What::lower("cpu/start", "CPU of a pod's start", "ms");
const EXEC_CPU: What = What::lower("cpu/exec", "CPU of an exec probe", "ms");

/// Titles at 1, at half and at all of the pods.
const AT: [[What; 3]; 3] = [
    [
        What::lower("memory/daemon 1", "daemon at 1 pod", "MB"),
        What::lower("memory/others 1", "shims and other processes at 1 pod", "MB"),
        What::lower("memory/kernel 1", "kernel at 1 pod", "MB"),
    ],
    [
        What::lower("memory/daemon half", "daemon at {half} pods", "MB"),
        What::lower("memory/others half", "shims and other processes at {half} pods", "MB"),
        What::lower("memory/kernel half", "kernel at {half} pods", "MB"),
    ],
    [
        What::lower("memory/daemon all", "daemon at {all} pods", "MB"),
        What::lower("memory/others all", "shims and other processes at {all} pods", "MB"),
        What::lower("memory/kernel all", "kernel at {all} pods", "MB"),
    ],
];

impl Bench {
    /// Fills each subject in turn, measures what there is to measure then, and empties it.
    ///
    /// # Errors
    /// If a call fails.
    pub(crate) async fn held(&mut self) -> Result<()> {
        if self.wants("memory") {
            let pod = [POD, POD_PROCESSES, POD_DAEMON, POD_KERNEL, POD_CACHES];
            let daemon = [THREADS, DESCRIPTORS, START_CPU, EXEC_CPU];
            for what in pod.into_iter().chain(AT.into_iter().flatten()).chain(daemon) {
                self.report.declare(what);
            }
        }
        let mut subjects = std::mem::take(&mut self.subjects);
        let mut outcome = Ok(());
        for subject in &mut subjects {
            eprintln!("held: {} pods of {}", self.amount.held, subject.name);
            let name = subject.name.clone();
            outcome = self.hold(subject).await.context(name);
            if outcome.is_err() {
                break;
            }
        }
        self.subjects = subjects;
        outcome
    }

    async fn hold(&mut self, subject: &mut Subject) -> Result<()> {
        if self.wants("memory") {
            self.memory(subject).await?;
        } else {
            subject.fill(self.amount.held, self.amount.workers).await?;
        }
        if self.wants("lists") {
            self.lists(subject).await?;
        }
        if self.wants("idle") {
            self.idle(subject).await?;
        }
        if self.wants("restart") {
            self.restarts(subject).await?;
        }
        if self.wants("crowd") {
            self.crowd(subject).await?;
        }
        subject.drain(self.amount.workers).await.map(drop)
    }

    /// Looks at one pod, at half of them, and at all.
    async fn memory(&mut self, subject: &mut Subject) -> Result<()> {
        let (all, workers) = (self.amount.held.max(3), self.amount.workers);
        let half = all / 2;
        let mut stages = Vec::new();
        subject.fill(1, 1).await?;
        stages.push(self.settled(subject).await?);
        self.exec_cpu(subject).await?;
        let before = subject.site().map(|site| site.cpu_ms()).transpose()?;
        subject.fill(half - 1, workers).await?;
        stages.push(self.settled(subject).await?);
        subject.fill(all - half, workers).await?;
        stages.push(self.settled(subject).await?);
        if let (Some(before), Some(site)) = (before, subject.site()) {
            let each = (site.cpu_ms()? - before) / (all - 1) as f64;
            self.report.put(START_CPU, &subject.name, Figure::one(each, all - 1));
        }
        memory(&mut self.report, &subject.name, &stages, all - 1);
        Ok(())
    }

    /// A daemon may tidy up after a burst before it is looked at.
    async fn settled(&self, subject: &Subject) -> Result<Memory> {
        tokio::time::sleep(self.amount.settle).await;
        subject.memory().await
    }

    async fn exec_cpu(&mut self, subject: &mut Subject) -> Result<()> {
        let Some(before) = subject.site().map(|site| site.cpu_ms()).transpose()? else {
            return Ok(());
        };
        subject.probes(PROBES).await?;
        let after = subject.site().map(|site| site.cpu_ms()).transpose()?.unwrap_or(before);
        let each = (after - before) / PROBES as f64;
        self.report.put(EXEC_CPU, &subject.name, Figure::one(each, PROBES));
        Ok(())
    }
}

/// Puts the rows of memory; `more` pods came between the first and the last stage.
fn memory(report: &mut Report, name: &str, stages: &[Memory], more: usize) {
    let (Some(first), Some(last)) = (stages.first(), stages.last()) else { return };
    let each = |of: fn(&Memory) -> f64| (of(last) - of(first)) / more as f64;
    let kernel = |memory: &Memory| memory.kernel.unwrap_or(0.0);
    let processes = last.daemon > 0.0;
    let mut put = |what, value: f64| report.put(what, name, Figure::one(value, more));
    if processes && last.kernel.is_some() {
        put(POD, (each(Memory::processes) + each(kernel)) / MB);
    }
    if processes {
        put(POD_PROCESSES, each(Memory::processes) / MB);
    }
    if last.kernel.is_some() {
        put(POD_KERNEL, each(kernel) / MB);
        put(POD_CACHES, each(|memory| memory.caches) / MB);
    }
    if processes {
        put(POD_DAEMON, each(|memory| memory.daemon) / MB);
    }
    for (stage, [daemon, others, charged]) in stages.iter().zip(AT) {
        if processes {
            put(daemon, stage.daemon / MB);
            put(others, stage.others / MB);
        }
        if let Some(kernel) = stage.kernel {
            put(charged, kernel / MB);
        }
    }
    if processes {
        put(THREADS, last.threads);
        put(DESCRIPTORS, each(|memory| memory.descriptors));
    }
}
