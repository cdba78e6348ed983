//! Pods of every kind, side by side on one node: each by a handler of its own.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use berth_proto::cri::v1 as cri;
use futures_util::future::try_join_all;

use crate::bed::{Bed, eventually, reference};
use crate::config::Config;
use crate::cri::{RunningPod, in_time};
use crate::paths;
use crate::specs::Container;

/// What every container but a WASI module does.
const GREET: &str = "echo hello; trap 'exit 3' TERM; while :; do sleep 1000 & wait $!; done";

/// A kind of pod.
#[derive(Clone, Debug)]
pub struct Kind {
    /// Its handler's name.
    pub handler: &'static str,
    /// What people call it.
    pub title: &'static str,
    program: PathBuf,
    by: By,
    guest: Guest,
}

/// How Berth comes to the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// Berth's shim drives it as an OCI runtime.
    Runtime,
    /// It is a shim.
    Shim,
}

/// What a container of a kind is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guest {
    /// Namespaces of the node's kernel.
    Namespaces,
    /// WebAssembly: no shell, no commands, no signals.
    Wasm,
    /// A kernel of its own.
    Kernel,
}

/// A pod of a kind, with a container that runs.
#[derive(Debug)]
struct Member {
    kind: Kind,
    pod: RunningPod,
    container: String,
}

/// Every kind that the tests' machine has.
///
/// # Errors
/// If a program is missing.
pub fn all() -> Result<Vec<Kind>> {
    let beside = |path: &str| paths::cache().join(path);
    let kinds = [
        ("runc", "runc", "/usr/sbin/runc".into(), By::Runtime, Guest::Namespaces),
        ("crun", "crun", "/usr/bin/crun".into(), By::Runtime, Guest::Namespaces),
        ("gvisor", "gVisor", beside("runsc/usr/bin/runsc"), By::Runtime, Guest::Kernel),
        (
            "runc-v2",
            "containerd's own shim",
            beside("containerd/usr/bin/containerd-shim-runc-v2"),
            By::Shim,
            Guest::Namespaces,
        ),
        ("wasm", "WASI by wasmtime", paths::wasm_shim()?, By::Shim, Guest::Wasm),
    ];
    let kinds = kinds.into_iter().map(|(handler, title, program, by, guest)| {
        let kind = Kind { handler, title, program, by, guest };
        ensure!(kind.program.is_file(), "{} is missing: `make needs`", kind.program.display());
        Ok(kind)
    });
    kinds.collect()
}

/// A node with a handler for each kind beside the default one.
#[must_use]
pub fn config(kinds: &[Kind]) -> Config {
    let tables = kinds.iter().map(Kind::table).collect::<String>();
    Config::default().drop_in("60-kinds.toml", &tables)
}

impl Kind {
    /// Its table in the daemon's configuration.
    fn table(&self) -> String {
        let key = match self.by {
            By::Runtime => "runtime",
            By::Shim => "shim",
        };
        format!("[handlers.{}]\n{key} = {:?}\n", self.handler, self.program)
    }

    async fn run(&self, bed: &Bed) -> Result<Member> {
        let pod = bed.cri.run(&bed.pod(self.handler).by(self.handler)).await?;
        let container = match self.guest {
            Guest::Namespaces | Guest::Kernel => {
                Container::new("main", &reference("busybox")).shell(GREET)
            }
            Guest::Wasm => Container::new("main", &reference("wasm"))
                .with(|config| config.args = ["file", "/hello", "idle"].map(str::to_owned).into()),
        };
        let container = bed.cri.launch(&pod, &container).await?;
        Ok(Member { kind: self.clone(), pod, container })
    }
}

impl Member {
    /// Looks at its log, at a command in it and at its figures; returns what there was to see.
    async fn look(&self, bed: &Bed) -> Result<String> {
        let log = bed.logs(self.kind.handler).join("main.0.log");
        bed.file_says(&log, "stdout F hello").await?;
        let mut seen = vec![format!("log: {}", last_words(&log)?)];
        if self.kind.guest != Guest::Wasm {
            let kernel = bed.cri.shell(&self.container, "cat /proc/version").await?;
            let node = std::fs::read_to_string("/proc/version").context("the node's kernel")?;
            let nodes = self.kind.guest == Guest::Namespaces;
            ensure!((kernel == node.trim()) == nodes, "which kernel is this: {kernel}");
            let words: Vec<_> = kernel.split(' ').take(3).collect();
            seen.push(format!("exec: {}", words.join(" ")));
        }
        seen.push(self.figures(bed).await?);
        Ok(seen.join("; "))
    }

    async fn figures(&self, bed: &Bed) -> Result<String> {
        let stats = eventually(
            || format!("{} has no figures", self.kind.handler),
            async || {
                let request =
                    in_time(cri::ContainerStatsRequest { container_id: self.container.clone() });
                let answer = bed.cri.runtime.clone().container_stats(request).await?.into_inner();
                let stats = answer.stats.context("figures")?;
                let cpu = stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds);
                let memory = stats.memory.and_then(|memory| memory.working_set_bytes);
                let both = cpu.zip(memory).map(|(cpu, memory)| (cpu.value, memory.value));
                Ok(both.filter(|(cpu, memory)| *cpu > 0 && *memory > 0))
            },
        );
        let (cpu, memory) = stats.await?;
        Ok(format!("stats: {:.1} ms of CPU, {} KiB", cpu as f64 / 1e6, memory >> 10))
    }

    /// Ends it, as its program wants to end.
    async fn end(&self, bed: &Bed) -> Result<i32> {
        let handler = self.kind.handler;
        bed.cri.stop(&self.container, 10).await?;
        let status = bed.cri.container(&self.container).await?;
        ensure!(status.state() == cri::ContainerState::ContainerExited, "{handler} was stopped");
        bed.cri.remove(&self.container).await?;
        bed.cri.stop_pod(&self.pod.id).await?;
        bed.cri.remove_pod(&self.pod.id).await?;
        Ok(status.exit_code)
    }
}

/// Runs a pod of each kind, all at once; looks at each; ends all, and each is gone.
///
/// # Errors
/// If a kind does not do what every kind does.
pub async fn side_by_side(
    bed: &Bed,
    kinds: &[Kind],
    mut tell: impl FnMut(&str) -> Result<()>,
) -> Result<()> {
    let members = try_join_all(kinds.iter().map(async |kind| {
        kind.run(bed).await.with_context(|| format!("a pod by {}", kind.handler))
    }));
    let members = members.await?;
    for member in &members {
        let seen = member.look(bed).await;
        let seen = seen.with_context(|| format!("the pod by {}", member.kind.handler))?;
        tell(&format!("{:8} ({}): {seen}", member.kind.handler, member.kind.title))?;
    }
    let ended = try_join_all(members.iter().map(async |member| {
        let code = member.end(bed).await;
        code.with_context(|| format!("end the pod by {}", member.kind.handler))
    }));
    for (member, code) in members.iter().zip(ended.await?) {
        // SIGTERM's own code where the program cannot have a will.
        let wanted = if member.kind.guest == Guest::Wasm { 143 } else { 3 };
        if code != wanted {
            bail!(
                "the container by {} ended with {code}, not by its own will",
                member.kind.handler
            );
        }
    }
    let left = bed.cri.pods().await?;
    ensure!(left.is_empty(), "pods are left: {left:?}");
    tell("every one ended by SIGTERM and is gone")
}

fn last_words(log: &Path) -> Result<String> {
    let text = std::fs::read_to_string(log).with_context(|| format!("read {}", log.display()))?;
    let line = text.lines().last().context("a line")?;
    Ok(line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned())
}
