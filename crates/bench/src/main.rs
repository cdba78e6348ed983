//! Measures CRI runtimes: Berth, Debian's containerd and the bare CNI and runtime commands in
//! turn, each in a node of its own, and any other CRI socket that is named.
//!
//! ```text
//! main ─ make the subjects ─▶ subject/   one of bare, cri
//!      ─ part by part ──────▶ rows/      each in turns over all subjects
//!      ─ tell ──────────────▶ report/    table, JSON, plots
//! ```

mod bare;
mod report;
mod rows;
mod samples;
mod subject;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::report::Report;
use crate::report::document::publish;
use crate::report::machine::{Machine, load};
use crate::report::table::{Style, write};
use crate::rows::{Amount, Bench};
use crate::subject::cri::CriSubject;
use crate::subject::handlers::{self, Handler};
use crate::subject::make::{self, Parts};
use crate::subject::{Kind, Subject};

/// The parts that `--only` knows.
const PARTS: [&str; 12] = [
    "rpc", "sessions", "events", "rates", "memory", "lists", "idle", "restart", "crowd", "logs",
    "pull", HANDLERS,
];
/// The part in which the subjects have more handlers than the one of everybody.
const HANDLERS: &str = "handlers";

#[derive(Debug, Parser)]
#[command(about = "Measures CRI runtimes side by side", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Enters a cgroup and becomes a program; started by the bench itself
    #[command(hide = true)]
    Enter { cgroup: String, words: Vec<String> },
    /// The driver of the bare commands; started by the bench itself
    #[command(hide = true)]
    Bare { plan: PathBuf },
}

#[derive(Debug, Args)]
struct Run {
    /// Only these parts: rpc, sessions, events, rates, memory (and CPU), lists, idle, restart,
    /// crowd, logs, pull, handlers
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Whom to measure, of bare, berth and containerd; without this and without --socket, all
    #[arg(long, value_delimiter = ',')]
    subjects: Vec<String>,
    /// Another CRI socket to measure, NAME=PATH; can be given several times
    #[arg(long)]
    socket: Vec<String>,
    /// The image that the containers of --socket run: it needs `sh` and `true`
    #[arg(long, default_value = "docker.io/library/busybox:latest")]
    image: String,
    /// How often each RPC is measured
    #[arg(short, long, default_value_t = 50)]
    n: usize,
    /// How many pods are started for each rate
    #[arg(long, default_value_t = 150)]
    pods: usize,
    /// How many at a time for the rates
    #[arg(long, default_value_t = 10)]
    workers: usize,
    /// How many pods are held for memory and lists
    #[arg(long, default_value_t = 100)]
    held: usize,
    /// In how many turns the subjects are measured
    #[arg(long, default_value_t = 5)]
    turns: usize,
    /// Seconds of peace before memory is looked at
    #[arg(long, default_value_t = 3)]
    settle: u64,
    /// How often the daemon is killed
    #[arg(long, default_value_t = 5)]
    restarts: usize,
    /// Seconds of the kubelet's polling
    #[arg(long, default_value_t = 20)]
    polling: u64,
    /// How often the large image is pulled
    #[arg(long, default_value_t = 3)]
    pulls: usize,
    /// How long the log is
    #[arg(long, default_value_t = 1000)]
    log_megabytes: usize,
    /// The OCI runtime of everybody: runc, crun or a path
    #[arg(long, default_value = "runc")]
    runtime: String,
    /// Berth's daemon; by default the release build
    #[arg(long)]
    daemon: Option<PathBuf>,
    /// Writes every figure here
    #[arg(long)]
    json: Option<PathBuf>,
    /// Writes the table, what was asked and the plots here, as Markdown
    #[arg(long)]
    document: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match arguments.command {
        Some(Command::Enter { cgroup, words }) => subject::site::enter(&cgroup, &words),
        Some(Command::Bare { plan }) => bare::driver::run(&plan),
        None => {
            let threads = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?;
            threads.block_on(arguments.run.run())
        }
    }
}

/// From now on takes the signals that end the run, and waits for one: what the nodes hold must be
/// given back then, too.
fn signalled() -> Result<impl Future<Output = Result<()>>> {
    let mut term = signal(SignalKind::terminate()).context("take SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("take SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => bail!("ended by SIGTERM"),
            _ = interrupt.recv() => bail!("interrupted"),
        }
    })
}

impl Run {
    async fn run(self) -> Result<()> {
        if let Some(part) = self.only.iter().find(|part| !PARTS.contains(&part.as_str())) {
            bail!("no part is called {part:?}: {PARTS:?}");
        }
        let started = Instant::now();
        let parts = self.parts()?;
        let mut machine = Machine::before(&parts.runtime);
        let (report, amount) = (Report::new(self.names(), self.held), self.amount());
        let mut bench = Bench { subjects: Vec::new(), report, amount, parts: self.only.clone() };
        let signalled = signalled()?;
        let outcome = tokio::select! {
            outcome = self.measure(&mut bench, parts, &mut machine) => outcome,
            signal = signalled => signal,
        };
        // What was measured before a failure is worth seeing, too.
        let text = write(&bench.report.cells("berth"), Style::Plain);
        std::io::stdout().lock().write_all(text.as_bytes()).context("write the table")?;
        if let Err(error) = outcome {
            for node in bench.subjects.iter().filter_map(Subject::site).map(|site| &site.node) {
                eprintln!("a daemon's log is {}; it ends:\n{}", node.keep_log(), node.log_tail());
            }
            return Err(error);
        }
        machine.seconds = started.elapsed().as_secs_f64();
        machine.load_after = load();
        if let Some(path) = &self.json {
            let all = serde_json::json!({"machine": machine, "report": bench.report});
            let text = serde_json::to_vec_pretty(&all).context("the report")?;
            std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
        }
        match &self.document {
            Some(path) => publish(path, &bench.report, &machine, &amount),
            None => Ok(()),
        }
    }

    /// The subjects take their turns part by part; those that have handlers come back with them,
    /// on nodes of their own, so that no other row has them.
    async fn measure(
        &self,
        bench: &mut Bench,
        mut parts: Parts,
        machine: &mut Machine,
    ) -> Result<()> {
        if PARTS.iter().any(|part| *part != HANDLERS && bench.wants(part)) {
            bench.subjects = self.make(&self.names(), &parts).await?;
            for pair in &self.socket {
                bench.subjects.push(self.foreign(pair).await?);
            }
            for subject in &bench.subjects {
                machine.versions.extend(subject.version().await?);
            }
            bench.all().await?;
            bench.close()?;
        }
        let names: Vec<_> = self.names().into_iter().filter(|name| name != "bare").collect();
        if bench.wants(HANDLERS) && names.iter().any(|name| make::OWN.contains(&name.as_str())) {
            parts.handlers = handlers::found()?;
            machine.versions.extend(parts.handlers.iter().filter_map(Handler::version));
            bench.subjects = self.make(&names, &parts).await?;
            bench.handlers(&parts.handlers).await;
            bench.close()?;
        }
        Ok(())
    }

    /// The names of all subjects.
    fn names(&self) -> Vec<String> {
        let own = match self.subjects.is_empty() && self.socket.is_empty() {
            true => make::OWN.map(str::to_owned).to_vec(),
            false => self.subjects.clone(),
        };
        let named = self.socket.iter().filter_map(|pair| pair.split('=').next());
        own.into_iter().chain(named.map(str::to_owned)).collect()
    }

    fn amount(&self) -> Amount {
        Amount {
            calls: self.n,
            pods: self.pods,
            workers: self.workers,
            turns: self.turns,
            held: self.held,
            settle: Duration::from_secs(self.settle),
            restarts: self.restarts,
            polling: self.polling,
            pulls: self.pulls,
            log_megabytes: self.log_megabytes,
        }
    }

    /// Sets up those of the names that are this bench's own.
    async fn make(&self, names: &[String], parts: &Parts) -> Result<Vec<Subject>> {
        let mut subjects: Vec<Subject> = Vec::new();
        for name in names.iter().filter(|name| !self.is_foreign(name)) {
            eprintln!("setting up {name}");
            let beside = subjects.iter().find_map(Subject::site).map(|site| &site.node);
            let subject = make::own(name, parts, beside).await;
            subjects.push(subject.with_context(|| format!("set up {name}"))?);
        }
        Ok(subjects)
    }

    fn is_foreign(&self, name: &str) -> bool {
        self.socket.iter().any(|pair| pair.split('=').next() == Some(name))
    }

    async fn foreign(&self, pair: &str) -> Result<Subject> {
        let (name, path) = pair.split_once('=').context("--socket takes NAME=PATH")?;
        let cri = CriSubject::foreign(Path::new(path), &self.image).await?;
        Ok(Subject { name: name.to_owned(), kind: Kind::Cri(Box::new(cri)) })
    }

    fn parts(&self) -> Result<Parts> {
        let own = std::env::current_exe().context("find the running program")?;
        let target = own.ancestors().nth(2).map(Path::to_owned).unwrap_or_default();
        let berth = self.daemon.clone().unwrap_or_else(|| target.join("release/berth"));
        let berth = std::fs::canonicalize(&berth).with_context(|| {
            format!("{} is not built: `cargo build --release -p berth`", berth.display())
        })?;
        let runtime = handlers::program(&self.runtime);
        let runtime = runtime.with_context(|| format!("no OCI runtime {}", self.runtime))?;
        Ok(Parts { runtime, berth, handlers: Vec::new() })
    }
}
