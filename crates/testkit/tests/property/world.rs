//! What everybody in a sequence shares: the way to the daemon, the model, the story so far.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use berth_testkit::cri::{Answer, Cri};
use tonic::Status;

use crate::levers::Levers;
use crate::truth::{Key, Look, Truth};

/// No call takes longer, its grace not counted.
const BOUND: Duration = Duration::from_secs(60);
/// No list takes longer: it waits for nobody.
const LIST: Duration = Duration::from_secs(5);
/// How often one call may meet a daemon's death.
const DEATHS: usize = 40;

/// What became of a call.
#[derive(Debug)]
pub(crate) enum Outcome<T> {
    /// It was answered.
    Done(T),
    /// It failed.
    Refused(Status),
    /// The caller went away.
    GaveUp,
}

/// What everybody shares.
pub(crate) struct World {
    pub(crate) levers: Arc<Levers>,
    /// The logs of pods on the node's disk.
    pub(crate) logs: PathBuf,
    /// The pid of the node's first process.
    pub(crate) keeper: u32,
    truth: Mutex<Truth>,
    story: Mutex<Vec<String>>,
    cri: Mutex<Cri>,
    /// Odd while no daemon runs.
    epoch: AtomicU64,
    moves: AtomicU64,
    began: Instant,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub(crate) fn new(levers: &Arc<Levers>, logs: PathBuf, keeper: u32, cri: &Cri) -> Self {
        Self {
            levers: Arc::clone(levers),
            logs,
            keeper,
            truth: Mutex::default(),
            story: Mutex::default(),
            cri: Mutex::new(cri.clone()),
            epoch: AtomicU64::new(0),
            moves: AtomicU64::new(0),
            began: Instant::now(),
        }
    }

    /// The model.
    pub(crate) fn truth(&self) -> MutexGuard<'_, Truth> {
        lock(&self.truth)
    }

    /// A line of the story, printed when a promise is broken.
    pub(crate) fn tell(&self, line: String) {
        let at = self.began.elapsed().as_secs_f64();
        lock(&self.story).push(format!("{at:8.3} {line}"));
    }

    /// The story so far.
    pub(crate) fn story(&self) -> String {
        lock(&self.story).join("\n")
    }

    /// How many calls were made.
    pub(crate) fn moves(&self) -> u64 {
        self.moves.load(Ordering::Acquire)
    }

    /// From now on no daemon runs.
    pub(crate) fn down(&self) {
        self.tell("the daemon dies".to_owned());
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// A new daemon answers.
    pub(crate) fn up(&self, cri: &Cri) {
        *lock(&self.cri) = cri.clone();
        self.epoch.fetch_add(1, Ordering::AcqRel);
        self.tell("the daemon is back".to_owned());
    }

    /// The daemon of now: its number, and a client. Waits for one.
    async fn daemon(&self) -> (u64, Cri) {
        loop {
            let epoch = self.epoch.load(Ordering::Acquire);
            let cri = lock(&self.cri).clone();
            if epoch.is_multiple_of(2) && self.epoch.load(Ordering::Acquire) == epoch {
                return (epoch, cri);
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }

    /// Makes a call, and makes it again if the daemon died meanwhile; gives up after a while if
    /// asked to. The flag says whether a daemon died.
    pub(crate) async fn call<T>(
        &self,
        what: &str,
        patience: Option<Duration>,
        ask: impl AsyncFn(Cri) -> Answer<T>,
    ) -> Result<(Outcome<T>, bool)> {
        self.call_within(what, (patience, BOUND), ask).await
    }

    /// The same with another bound.
    pub(crate) async fn call_within<T>(
        &self,
        what: &str,
        (patience, bound): (Option<Duration>, Duration),
        ask: impl AsyncFn(Cri) -> Answer<T>,
    ) -> Result<(Outcome<T>, bool)> {
        for death in 0..DEATHS {
            let (epoch, cri) = self.daemon().await;
            self.moves.fetch_add(1, Ordering::AcqRel);
            self.tell(format!("{what} ..."));
            let begin = Instant::now();
            let limit = patience.unwrap_or(bound);
            let answer = tokio::time::timeout(limit, ask(cri)).await;
            let took = begin.elapsed().as_millis();
            let (outcome, said) = match answer {
                Err(_) if patience.is_none() => bail!("{what} took longer than {bound:?}"),
                Err(_) => (Outcome::GaveUp, "given up".to_owned()),
                Ok(Ok(value)) => (Outcome::Done(value), "done".to_owned()),
                Ok(Err(status)) => {
                    let said = format!("{:?}: {}", status.code(), status.message());
                    (Outcome::Refused(status), said)
                }
            };
            self.tell(format!("{what}: {said} ({took} ms)"));
            let died = self.epoch.load(Ordering::Acquire) != epoch;
            if !(died && matches!(outcome, Outcome::Refused(_))) {
                return Ok((outcome, death > 0));
            }
        }
        bail!("{what} met {DEATHS} deaths of the daemon")
    }

    /// A call that must succeed.
    pub(crate) async fn must<T>(
        &self,
        what: &str,
        ask: impl AsyncFn(Cri) -> Answer<T>,
    ) -> Result<T> {
        match self.call(what, None, ask).await?.0 {
            Outcome::Done(value) => Ok(value),
            Outcome::Refused(status) => bail!("{what} must succeed: {status:?}"),
            Outcome::GaveUp => bail!("{what}: nobody gave up"),
        }
    }

    /// Lists everything and compares it with the model.
    pub(crate) async fn look(&self, cri: &Cri) -> Result<Answer<()>> {
        let before = self.truth().clone();
        let begin = Instant::now();
        let pods = match cri.pods().await {
            Ok(pods) => pods,
            Err(status) => return Ok(Err(status)),
        };
        let containers = match cri.containers().await {
            Ok(containers) => containers,
            Err(status) => return Ok(Err(status)),
        };
        let took = begin.elapsed();
        let after = self.truth().clone();
        let look = Look { before: &before, after: &after, pods: &pods, containers: &containers };
        let broken = look.broken();
        if !broken.is_empty() {
            bail!("the lists are wrong: {}", broken.join("\n"));
        }
        if took > LIST {
            bail!("two lists took {took:?}");
        }
        Ok(Ok(()))
    }

    /// Looks again and again; never returns unless something is wrong.
    pub(crate) async fn watch(&self) -> Result<()> {
        loop {
            let (epoch, cri) = self.daemon().await;
            if let Err(status) = self.look(&cri).await?
                && self.epoch.load(Ordering::Acquire) == epoch
            {
                bail!("a list failed: {status:?}");
            }
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
    }

    /// A pod's shim is killed.
    pub(crate) fn kill_shim(&self, pod: Key) -> Result<()> {
        let id = {
            let mut truth = self.truth();
            truth.change_pod(pod, |pod| pod.harmed = true);
            truth.pod(pod).id.clone().context("a pod with an id")?
        };
        self.tell(format!("the shim of {id:.8} is killed"));
        for entry in fs::read_dir("/proc")?.flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words);
            // The id has 64 digits of chance: no other node's shim has it.
            if words.contains("containerd-shim-berth-v1") && words.contains(&id) {
                let pid = nix::unistd::Pid::from_raw(pid);
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
        }
        Ok(())
    }

    /// A command line that has this in it.
    pub(crate) fn runs(&self, part: &str) -> Result<Option<String>> {
        for entry in fs::read_dir(format!("/proc/{}/root/proc", self.keeper))?.flatten() {
            let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            if words.contains(part) {
                return Ok(Some(words));
            }
        }
        Ok(None)
    }

    /// When a process of the node started; none if it is gone or a zombie.
    pub(crate) fn started(&self, pid: u32) -> Option<String> {
        let stat = format!("/proc/{}/root/proc/{pid}/stat", self.keeper);
        let text = fs::read_to_string(stat).ok()?;
        let mut fields = text.rsplit(')').next()?.split_whitespace();
        let state = fields.next()?;
        let start = fields.nth(18)?;
        (!["Z", "X"].contains(&state)).then(|| start.to_owned())
    }
}
