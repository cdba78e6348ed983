//! What an end-to-end test lies on: a node with a daemon and images, a client, and the census
//! that closes every test.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};

use crate::census::Census;
use crate::config::{Config, Daemon};
use crate::cri::{Cri, RunningPod};
use crate::image::samples;
use crate::network;
use crate::node::Node;
use crate::specs::{Container, Pod};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A node under test with everything a test needs at hand.
#[derive(Debug)]
pub struct Bed {
    /// The node.
    pub node: Node,
    /// A client of its daemon; a new one after each restart.
    pub cri: Cri,
    before: Census,
    pulled: Census,
    bare: Census,
}

/// Runs a test on a node of its own with the image `busybox`.
///
/// # Errors
/// What the test returns, or a leak.
pub fn on_a_node(test: impl AsyncFnOnce(&mut Bed) -> Result<()>) -> Result<()> {
    on_a_node_with(Config::default(), &["busybox"], test)
}

/// Runs a test on a node with this configuration and these sample images. Afterwards all pods
/// are removed, the census must find nothing new, and the daemon must end well on SIGTERM.
///
/// # Errors
/// What the test returns, or a leak.
pub fn on_a_node_with(
    config: Config,
    images: &[&str],
    test: impl AsyncFnOnce(&mut Bed) -> Result<()>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start a runtime for the test")?;
    runtime.block_on(async {
        let mut bed = Bed::make(config, images).await?;
        let outcome = match test(&mut bed).await {
            Ok(()) => bed.close().await,
            Err(error) => Err(error),
        };
        if outcome.is_err() {
            let kept = bed.node.keep_log();
            eprintln!("testkit: the daemon's log is {kept}; it ends:\n{}", bed.node.log_tail());
        }
        outcome
    })
}

/// Where the daemon removes things after its answer.
const BACKGROUND: [&str; 2] = ["/var/lib/berth/files", "/var/lib/berth/images/trash"];

impl Bed {
    /// Makes a node and pulls the images.
    ///
    /// # Errors
    /// If any of it fails.
    pub async fn make(config: Config, images: &[&str]) -> Result<Self> {
        let mut node = Node::prepare(config)?;
        let bare = Census::take(&node)?;
        push(&mut node, images)?;
        if node.config().which() == Daemon::Containerd {
            crate::containerd::push_pause(&mut node)?;
        }
        node.start_daemon()?;
        let cri = node.cri().await?;
        for name in images {
            cri.pull(&reference(name)).await.with_context(|| format!("pull {name}"))?;
        }
        furnish(&node, &cri, images).await.context("the first pod")?;
        no_shims(&node).await?;
        // What goes in the background would be missed later.
        let emptied = async || {
            let empty =
                |dir| std::fs::read_dir(node.path(dir)).map_or(true, |mut e| e.next().is_none());
            Ok(BACKGROUND.into_iter().all(empty).then_some(()))
        };
        eventually(|| format!("the first pod leaves something in {BACKGROUND:?}"), emptied).await?;
        let before = Census::take(&node)?;
        Ok(Self { node, cri, pulled: before.clone(), before, bare })
    }

    /// Removes every pod and demands that the node is as it was, then without its daemon too.
    ///
    /// # Errors
    /// With the names of what is left.
    pub async fn close(&mut self) -> Result<()> {
        if self.node.daemon().is_some() {
            self.cri.clear_all().await.context("remove every pod")?;
            self.before.same_again(&self.node)?;
            self.node.stop_daemon()?;
        }
        self.bare.no_more_processes(&self.node).context("after the daemon's end")
    }

    /// Takes what is there now as what a clean node has: after images were pulled or removed, or
    /// with a pod that is to stay for a while.
    ///
    /// # Errors
    /// If the census cannot be taken.
    pub fn settle(&mut self) -> Result<()> {
        self.before = Census::take(&self.node)?;
        Ok(())
    }

    /// A clean node is what it was when the test began, as before any [`Bed::settle`].
    pub fn forget_settled(&mut self) {
        self.before = self.pulled.clone();
    }

    /// Demands that the node is as it was when the test began.
    ///
    /// # Errors
    /// With the names of what differs.
    pub fn is_clean(&self) -> Result<()> {
        self.before.same_again(&self.node)
    }

    /// Demands that the node becomes as it was when the test began, within this time.
    ///
    /// # Errors
    /// With the names of what differs then.
    pub fn becomes_clean(&self, within: Duration) -> Result<()> {
        self.before.same_within(&self.node, within)
    }

    /// Runs a pod that logs, with one idle container of the image `busybox`.
    ///
    /// # Errors
    /// If a call fails.
    pub async fn idle(&self, name: &str) -> Result<(RunningPod, String)> {
        let pod = self.cri.run(&self.pod(name)).await?;
        let id = self.cri.launch(&pod, &Container::idle("main", &busybox())).await?;
        Ok((pod, id))
    }

    /// A pod whose logs go to a directory of its own on the node's disk.
    #[must_use]
    pub fn pod(&self, name: &str) -> Pod {
        placed(&self.node, Pod::new(name)).logs(self.logs(name))
    }

    /// The log directory of a pod of this name.
    #[must_use]
    pub fn logs(&self, name: &str) -> std::path::PathBuf {
        self.node.disk().join("pods").join(name)
    }

    /// The pid of a container's first process, inside the node, from its verbose status.
    ///
    /// # Errors
    /// If it has none.
    pub async fn pid(&self, container: &str) -> Result<u32> {
        let details = self.cri.container_details(container).await?;
        let info = details.info.get("info").context("verbose status has a key \"info\"")?;
        let info: serde_json::Value = serde_json::from_str(info).context("\"info\" is JSON")?;
        let pid = info["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        pid.filter(|pid| *pid > 0).with_context(|| format!("a pid in {info}"))
    }

    /// The pid of a container's first process and when it started: what a restart must keep.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn identity(&self, container: &str) -> Result<(u32, String)> {
        let pid = self.pid(container).await?;
        let stat = self.node.path(&format!("/proc/{pid}/stat"));
        let text = std::fs::read_to_string(&stat)
            .with_context(|| format!("the container's process {pid} is not there"))?;
        // The command's name may hold anything but ends with the last parenthesis; the start
        // time is field 22, the twentieth after it (proc(5)).
        let rest = text.rsplit(')').next().unwrap_or_default();
        let start = rest.split_whitespace().nth(19).context("a start time")?;
        Ok((pid, start.to_owned()))
    }

    /// Whether a process of the node is dead; its parent, the node's PID 1, need not have reaped it.
    #[must_use]
    pub fn is_dead(&self, pid: u32) -> bool {
        let stat = std::fs::read_to_string(self.node.path(&format!("/proc/{pid}/stat")));
        let state = |text: &str| text.rsplit(')').next().map(str::trim_start).map(str::to_owned);
        stat.ok().and_then(|text| state(&text)).is_none_or(|rest| rest.starts_with(['Z', 'X']))
    }

    /// Runs Berth's own command line inside the node and returns what it printed.
    ///
    /// # Errors
    /// If it fails; with what it wrote.
    pub fn berth(&self, words: &[&str]) -> Result<String> {
        let mut command = self.node.config().program()?;
        command.args(words);
        let output = self.node.place()?.visit(|| network::run(&mut command, b""))?;
        Ok(String::from_utf8_lossy(&output).into_owned())
    }

    /// Kills the shim of a pod with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// If there is none.
    pub fn kill_shim_of(&self, pod: &str) -> Result<()> {
        let listed = self.node.run("ps", &["-e", "-o", "pid,args"])?;
        let own = |line: &&str| line.contains("containerd-shim-berth-v1") && line.contains(pod);
        let line = listed.lines().find(own).with_context(|| format!("a shim in\n{listed}"))?;
        let pid = line.split_whitespace().next().context("a pid")?;
        let kill = format!("kill -9 {pid}; while [ -e /proc/{pid}/exe ]; do :; done");
        self.node.run("sh", &["-c", &kill]).map(drop)
    }

    /// The log of the container `a` of a pod of this name.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn log(&self, pod: &str) -> Result<String> {
        let path = self.logs(pod).join("a.0.log");
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    /// Waits until the log of the container `a` of this pod contains a text.
    ///
    /// # Errors
    /// If it does not within twenty seconds.
    pub async fn log_says(&self, pod: &str, text: &str) -> Result<()> {
        self.file_says(&self.logs(pod).join("a.0.log"), text).await
    }

    /// Waits until a file contains a text.
    ///
    /// # Errors
    /// If it does not within twenty seconds.
    pub async fn file_says(&self, path: &std::path::Path, text: &str) -> Result<()> {
        let what = || format!("{} does not say {text:?}", path.display());
        eventually(what, async || {
            let read = std::fs::read_to_string(path).unwrap_or_default();
            Ok(read.contains(text).then_some(()))
        })
        .await
    }

    /// SIGKILL, a new daemon, a new client.
    ///
    /// # Errors
    /// If the daemon does not come back.
    pub async fn crash(&mut self) -> Result<()> {
        self.node.kill_daemon()?;
        self.start().await
    }

    /// Starts the daemon again, and a new client.
    ///
    /// # Errors
    /// If the daemon does not come back.
    pub async fn start(&mut self) -> Result<()> {
        self.node.start_daemon()?;
        self.cri = self.node.cri().await?;
        // It answers once the plugins have told theirs: a census finds none of them running.
        self.cri.status().await?;
        Ok(())
    }
}

/// A pod whose cgroup is below the node's.
fn placed(node: &Node, pod: Pod) -> Pod {
    match node.config().pods() {
        Some(parent) => pod.cgroup_parent(&parent),
        None => pod,
    }
}

/// Waits until a command of this name runs in the node.
///
/// # Errors
/// None comes.
pub async fn somebody_runs(bed: &Bed, command: &str) -> Result<()> {
    let there = async || Ok(runs(bed, command)?.then_some(()));
    eventually(|| format!("{command} does not run"), there).await
}

/// Waits until no command of this name runs in the node.
///
/// # Errors
/// One stays.
pub async fn nobody_runs(bed: &Bed, command: &str) -> Result<()> {
    let gone = async || Ok((!runs(bed, command)?).then_some(()));
    eventually(|| format!("{command} still runs"), gone).await
}

fn runs(bed: &Bed, command: &str) -> Result<bool> {
    let listed = bed.node.run("ps", &["-e", "-o", "args"])?;
    Ok(listed.lines().any(|line| line.trim() == command))
}

/// Waits until no shim runs in a node: containerd does not wait for the end of one that it has told to
/// end.
///
/// # Errors
/// One stays.
pub async fn no_shims(node: &Node) -> Result<()> {
    let gone = async || {
        Ok((!node.run("ps", &["-e", "-o", "args"])?.contains("containerd-shim-")).then_some(()))
    };
    eventually(|| "a shim stays".to_owned(), gone).await
}

/// Runs a first pod and removes it: the directories and cgroups that pods live in are made with
/// the first of them and stay.
async fn furnish(node: &Node, cri: &Cri, images: &[&str]) -> Result<()> {
    let pod = placed(node, Pod::new("first"));
    let pod = if node.config().network().is_some() { pod } else { pod.host_network() };
    let pod = cri.run(&pod).await?;
    if let Some(name) = images.first() {
        let container = Container::new("first", &reference(name));
        // That image has one program, which does what it is told and ends.
        let container = if *name == "wasm" { container } else { container.command(&["true"]) };
        cri.launch(&pod, &container).await?;
    }
    cri.clear(&pod.id).await.map_err(Into::into)
}

/// Asks again and again until there is an answer, for what is announced by nothing.
///
/// # Errors
/// What `ask` returns, or after twenty seconds what `what` says.
pub async fn eventually<T>(
    what: impl Fn() -> String,
    mut ask: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let wait = async {
        loop {
            if let Some(answer) = ask().await? {
                return Ok(answer);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(crate::patience::here(PATIENCE), wait)
        .await
        .map_err(|_| anyhow!(what()))?
}

/// Pushes sample images to the node's registry.
///
/// # Errors
/// If the registry cannot be had or refuses one.
pub fn push(node: &mut Node, images: &[&str]) -> Result<()> {
    if images.is_empty() {
        return Ok(());
    }
    let push = node.registry()?.push();
    for name in images {
        let sample = samples::one(name)?;
        node.place()?.visit(|| push.sample(&sample)).with_context(|| format!("push {name}"))?;
    }
    Ok(())
}

/// The reference of a sample image in the node's registry; `differs:b` names a tag.
#[must_use]
pub fn reference(name: &str) -> String {
    let (name, tag) = name.split_once(':').unwrap_or((name, "latest"));
    format!("127.0.0.1:{}/testing/{name}:{tag}", crate::node::REGISTRY_PORT)
}

/// The image that most containers run.
#[must_use]
pub fn busybox() -> String {
    reference("busybox")
}
