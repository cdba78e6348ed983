//! A subject behind a CRI socket: a daemon of this bench's own in a node, or any other.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use berth_testkit::cri::Cri;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tempfile::TempDir;

use super::pod::{Held, Steps};
use super::site::{Program, Site};
use crate::samples::Samples;

/// How long a daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon that this bench starts.
#[derive(Debug)]
pub(crate) struct Own {
    // Dropped in this order.
    daemon: Running,
    pub(crate) site: Site,
    pub(crate) program: Program,
}

/// A daemon's process; killed on drop.
#[derive(Debug)]
struct Running(Child);

/// A CRI runtime.
#[derive(Debug)]
pub(crate) struct CriSubject {
    pub(crate) cri: Cri,
    pub(crate) socket: PathBuf,
    /// The image of every container.
    pub(crate) image: String,
    pub(crate) handler: String,
    /// Where the pods' log directories are.
    pub(crate) logs: PathBuf,
    /// The cgroup below which each pod has one, if this bench makes them.
    pub(crate) cgroups: Option<String>,
    own: Option<Own>,
    _scratch: Option<TempDir>,
    daemon: u32,
    held: Vec<Held>,
    next: AtomicUsize,
}

impl Own {
    /// Starts the daemon in its node.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn start(site: Site, program: Program) -> Result<Self> {
        let daemon = Running(site.spawn(&program)?);
        Ok(Self { daemon, site, program })
    }
}

impl Running {
    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

impl CriSubject {
    /// A daemon that was just started, once it answers.
    ///
    /// # Errors
    /// If it does not answer, or cannot pull the image.
    pub(crate) async fn own(mut own: Own, socket: &str, image: &str) -> Result<Self> {
        let socket = own.site.node.path(socket);
        let daemon = &mut own.daemon.0;
        let cri = answering(&socket, || Ok(daemon.try_wait()?.is_none())).await;
        let cri = cri.with_context(|| own.site.node.log_tail())?;
        cri.pull(image).await.context("pull the image of the containers")?;
        let cgroups = Some(format!("{}/pods", own.site.node.parent().path()));
        let logs = own.site.node.disk().join("pods");
        let mut subject = Self::over(cri, socket, (image, logs))?;
        subject.cgroups = cgroups;
        subject.own = Some(own);
        Ok(subject)
    }

    /// Somebody else's socket; the image must be one that it has or can pull.
    ///
    /// # Errors
    /// If nobody answers there.
    pub(crate) async fn foreign(socket: &Path, image: &str) -> Result<Self> {
        let cri = answering(socket, || Ok(true)).await?;
        if cri.image_status(image).await?.is_none() {
            cri.pull(image).await.with_context(|| format!("pull {image}; see --image"))?;
        }
        let scratch = tempfile::Builder::new().prefix("berth-bench-").tempdir();
        let scratch = scratch.context("a directory for the pods' logs")?;
        let logs = scratch.path().join("pods");
        let mut subject = Self::over(cri, socket.to_owned(), (image, logs))?;
        subject._scratch = Some(scratch);
        Ok(subject)
    }

    fn over(cri: Cri, socket: PathBuf, (image, logs): (&str, PathBuf)) -> Result<Self> {
        let daemon = peer(&socket)?;
        Ok(Self {
            cri,
            socket,
            image: image.to_owned(),
            handler: String::new(),
            logs,
            cgroups: None,
            own: None,
            _scratch: None,
            daemon,
            held: Vec::new(),
            next: AtomicUsize::new(0),
        })
    }

    /// Its node, if it is this bench's own.
    pub(crate) fn site(&self) -> Option<&Site> {
        self.own.as_ref().map(|own| &own.site)
    }

    /// As [`CriSubject::site`], to be changed.
    pub(crate) fn site_mut(&mut self) -> Option<&mut Site> {
        self.own.as_mut().map(|own| &mut own.site)
    }

    /// Holds a pod that was begun by itself.
    pub(crate) fn hold(&mut self, held: Held) {
        self.held.push(held);
    }

    /// The daemon's pid as this process sees it.
    pub(crate) fn daemon(&self) -> u32 {
        self.daemon
    }

    /// The pods that are held.
    pub(crate) fn held(&self) -> &[Held] {
        &self.held
    }

    /// A number that no pod had before; its cgroup is there.
    ///
    /// # Errors
    /// If the cgroup cannot be made.
    pub(crate) fn number(&self) -> Result<usize> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if let Some(site) = self.site() {
            site.make_pod_cgroup(number)?;
        }
        Ok(number)
    }

    /// Ends the daemon and gives back the node.
    ///
    /// # Errors
    /// If the daemon is not this bench's own.
    pub(crate) fn into_site(mut self) -> Result<Site> {
        let own = self.own.take().context("a daemon of this bench's own")?;
        drop(own.daemon);
        Ok(own.site)
    }

    /// Kills the daemon, starts another and returns at once; the old connection is dead.
    ///
    /// # Errors
    /// If the daemon is not this bench's own, or cannot be started.
    pub(crate) fn crash(&mut self) -> Result<()> {
        let own = self.own.as_mut().context("only a daemon of this bench's own is killed")?;
        own.daemon.end();
        own.daemon = Running(own.site.spawn(&own.program)?);
        Ok(())
    }

    /// Connects to a daemon that was started again; tried until it answers.
    ///
    /// # Errors
    /// If it does not answer.
    pub(crate) async fn reconnect(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Cri::connect(&self.socket).await {
                Ok(cri) => {
                    self.cri = cri;
                    self.daemon = peer(&self.socket)?;
                    return Ok(());
                }
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    }

    /// One pod from its beginning to its end, with an exec and the cheap calls in between.
    ///
    /// # Errors
    /// If a call fails, or something was not done.
    pub(crate) async fn life(&self) -> Result<Steps> {
        let (held, mut steps) = self.begin(self.number()?).await?;
        steps.extend(self.look(&held).await?);
        steps.extend(self.end(&held, true).await?);
        self.forget(&[held.number])?;
        Ok(steps)
    }

    async fn look(&self, held: &Held) -> Result<Steps> {
        let mut steps = Steps::new();
        let mut last = Instant::now();
        let mut step = |name| {
            let now = Instant::now();
            steps.push((name, crate::samples::ms(now - last)));
            last = Instant::now();
        };
        self.exec(&held.container).await?;
        step("ExecSync");
        self.cri.pods().await.context("ListPodSandbox")?;
        step("ListPodSandbox");
        self.cri.containers().await.context("ListContainers")?;
        step("ListContainers");
        self.cri.container(&held.container).await.context("ContainerStatus")?;
        step("ContainerStatus");
        self.cri.status().await.context("Status")?;
        step("Status");
        Ok(steps)
    }

    pub(super) async fn exec(&self, container: &str) -> Result<()> {
        let output = self.cri.exec_within(container, &["true"], 10).await.context("ExecSync")?;
        if output.exit_code != 0 {
            bail!("ExecSync(true) gave the exit code {}", output.exit_code);
        }
        Ok(())
    }

    /// Runs `true` this often in a pod that is held.
    ///
    /// # Errors
    /// If no pod is held, or a call fails.
    pub(crate) async fn probes(&self, count: usize) -> Result<Samples> {
        let held = self.held.first().context("no pod is held")?;
        let mut samples = Samples::default();
        for _ in 0..count {
            let started = Instant::now();
            self.exec(&held.container).await?;
            samples.push(crate::samples::ms(started.elapsed()));
        }
        Ok(samples)
    }
}

/// Many pods at a time.
impl CriSubject {
    /// Starts this many more pods, `workers` at a time; returns how many seconds it took until
    /// the last had execed.
    ///
    /// # Errors
    /// If one fails.
    pub(crate) async fn fill(&mut self, count: usize, workers: usize) -> Result<f64> {
        let numbers = self.numbers(count)?;
        let started = Instant::now();
        let begun = stream::iter(numbers).map(|number| self.begin(number));
        let held: Vec<_> = begun.buffer_unordered(workers).try_collect().await?;
        let seconds = started.elapsed().as_secs_f64();
        self.held.extend(held.into_iter().map(|(held, _)| held));
        Ok(seconds)
    }

    /// Removes every pod that is held; returns how many seconds it took.
    ///
    /// # Errors
    /// If one fails, or something of their network is left.
    pub(crate) async fn drain(&mut self, workers: usize) -> Result<f64> {
        let held = std::mem::take(&mut self.held);
        let started = Instant::now();
        let ended = stream::iter(&held).map(|held| self.end(held, false));
        let _: Vec<_> = ended.buffer_unordered(workers).try_collect().await?;
        let seconds = started.elapsed().as_secs_f64();
        self.forget(&held.iter().map(|held| held.number).collect::<Vec<_>>())?;
        self.site().map_or(Ok(()), Site::network_is_clean)?;
        Ok(seconds)
    }

    /// Starts and removes this many pods, `workers` at a time; returns the seconds.
    ///
    /// # Errors
    /// If one fails, or something of their network is left.
    pub(crate) async fn churn(&self, count: usize, workers: usize) -> Result<f64> {
        let numbers = self.numbers(count)?;
        let started = Instant::now();
        let lives = stream::iter(&numbers).map(async |number| {
            let (held, _) = self.begin(*number).await?;
            self.end(&held, false).await
        });
        let _: Vec<_> = lives.buffer_unordered(workers).try_collect().await?;
        let seconds = started.elapsed().as_secs_f64();
        self.forget(&numbers)?;
        self.site().map_or(Ok(()), Site::network_is_clean)?;
        Ok(seconds)
    }

    /// Removes the cgroups of pods that are gone.
    pub(crate) fn forget(&self, numbers: &[usize]) -> Result<()> {
        let Some(site) = self.site() else { return Ok(()) };
        numbers.iter().try_for_each(|number| site.remove_pod_cgroup(*number))
    }

    fn numbers(&self, count: usize) -> Result<Vec<usize>> {
        (0..count).map(|_| self.number()).collect()
    }
}

/// A client, once somebody answers who is alive.
async fn answering(socket: &Path, mut lives: impl FnMut() -> Result<bool>) -> Result<Cri> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let asked = async {
            let cri = Cri::connect(socket).await?;
            cri.version().await?;
            anyhow::Ok(cri)
        };
        match asked.await {
            Ok(cri) => return Ok(cri),
            Err(error) if Instant::now() > deadline || !lives()? => {
                return Err(error).with_context(|| format!("{} does not answer", socket.display()));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// The process that listens on a socket (SO_PEERCRED).
fn peer(socket: &Path) -> Result<u32> {
    let stream =
        UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    let peer = rustix::net::sockopt::socket_peercred(&stream).context("who listens there")?;
    Ok(peer.pid.as_raw_nonzero().get().unsigned_abs())
}
