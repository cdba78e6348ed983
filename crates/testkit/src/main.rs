//! The testkit's command line: a CRI client, sample images, a node to play with, the demo.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use berth_testkit::client::Client;
use berth_testkit::crash::{Side, Strike};
use berth_testkit::guest::Driver;
use berth_testkit::guest::host::{self, Request};
use berth_testkit::image::{archive, samples};
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(about = "What Berth is tested with")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The calls of crictl, under its names
    Cri(Client),
    /// A node that runs pods, loses its daemon under load and gives everything back
    Demo,
    /// A node in the foreground to play with, until Enter or end of input
    Node,
    /// critest on a node of its own, with stand-ins for its images; without one only the node
    Conformance {
        /// critest's program
        critest: Option<PathBuf>,
        /// What critest gets beside its endpoints
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// A kubelet on a node of its own: every shape of pod
    Kubelet {
        /// The kubelet's program
        kubelet: PathBuf,
        /// Only shapes whose names contain this
        #[arg(default_value = "")]
        only: String,
        /// Feature gates of the kubelet to open beside those that it is run with
        #[arg(long)]
        gate: Vec<String>,
    },
    /// The end-to-end tests on cgroup v2, in a machine of their own (QEMU)
    Cgroup2 {
        /// The program of the tests
        tests: PathBuf,
        /// Which of them: the beginning of a name a line
        selection: PathBuf,
        /// How cgroups are made
        #[arg(long, value_enum, default_value = "cgroupfs")]
        driver: Driver,
        /// The longest that it may take, in seconds
        #[arg(long, default_value_t = 5400)]
        deadline: u64,
        /// Of the selection only those that contain one of these words
        only: Vec<String>,
    },
    /// Runs tests inside that machine; started by its PID 1.
    #[command(hide = true)]
    Guest {
        /// The program of the tests.
        tests: PathBuf,
        /// Their names.
        list: PathBuf,
        /// How many at a time.
        jobs: usize,
    },
    /// Write a sample image as an archive for `berth image import`
    Image {
        /// Its name, as `busybox` or `differs:b`
        name: String,
        /// The file to write
        to: PathBuf,
        /// As a docker archive, not an OCI layout
        #[arg(long)]
        docker: bool,
    },
    /// PID 1 of a node under test; started by the testkit itself.
    #[command(hide = true)]
    Keeper {
        /// The node's directory on disk.
        disk: PathBuf,
    },
    /// The stand-in CNI plugin; started by a daemon under test.
    #[command(hide = true)]
    Plugin,
    /// An NRI plugin that writes down what it is called; started by a daemon under test.
    #[command(hide = true)]
    NriPlugin {
        /// The file that it writes to.
        calls: PathBuf,
    },
    /// The stand-in OCI runtime; started by a shim under test.
    #[command(hide = true)]
    Runtime {
        /// Its directory.
        dir: PathBuf,
        /// The real runtime.
        real: PathBuf,
        /// The runtime's own command line.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// The stand-in shim; started by a daemon under test.
    #[command(hide = true)]
    Shim {
        /// Its directory.
        dir: PathBuf,
        /// The real shim.
        real: PathBuf,
        /// The shim's own command line.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// A FUSE file system that can stop answering; started by a test.
    #[command(hide = true)]
    Fuse {
        /// Where to mount it.
        at: PathBuf,
        /// While this file exists nothing is answered.
        silent: PathBuf,
    },
    /// Follows a daemon and kills it at one line of its log; started by the crash harness.
    #[command(hide = true)]
    Trace {
        /// The daemon.
        pid: u32,
        /// At which point to kill it; at none if absent.
        number: Option<usize>,
        /// After the line is written, not before.
        #[arg(long)]
        after: bool,
    },
}

fn main() -> Result<ExitCode> {
    match Arguments::parse().command {
        Command::Cri(client) => {
            return threads()?.block_on(client.run()).map(ExitCode::from);
        }
        Command::Demo => threads()?.block_on(berth_testkit::demo::run())?,
        Command::Node => threads()?.block_on(berth_testkit::play::run())?,
        Command::Conformance { critest, arguments } => {
            let run = berth_testkit::conformance::run(critest.as_deref(), &arguments);
            return Ok(ExitCode::from(u8::from(!threads()?.block_on(run)?)));
        }
        Command::Kubelet { kubelet, only, gate } => {
            let run = berth_testkit::kubelet::run(&kubelet, &only, &gate);
            return Ok(ExitCode::from(u8::from(!threads()?.block_on(run)?)));
        }
        Command::Cgroup2 { tests, selection, driver, deadline, only } => {
            let (tests, selection) = (&std::fs::canonicalize(tests)?, &selection);
            let deadline = Duration::from_secs(deadline);
            let request = Request { tests, selection, only: &only, driver, deadline };
            return Ok(ExitCode::from(u8::from(!host::run(&request)?)));
        }
        Command::Guest { tests, list, jobs } => {
            berth_testkit::guest::runner::run(&tests, &list, jobs)?;
        }
        Command::Image { name, to, docker } => image(&name, &to, docker)?,
        Command::Keeper { disk } => berth_testkit::keeper::run(&disk)?,
        Command::NriPlugin { calls } => {
            threads()?.block_on(berth_testkit::nri::installed(&calls))?;
        }
        Command::Plugin => return berth_testkit::plugin::run().map(ExitCode::from),
        Command::Runtime { dir, real, arguments } => {
            return berth_testkit::runtime::run(&dir, &real, &arguments).map(ExitCode::from);
        }
        Command::Shim { dir, real, arguments } => {
            return berth_testkit::shim::run(&dir, &real, &arguments).map(ExitCode::from);
        }
        Command::Fuse { at, silent } => berth_testkit::fuse::run(&at, &silent)?,
        Command::Trace { pid, number, after } => {
            let side = if after { Side::After } else { Side::Before };
            berth_testkit::tracer::run(pid, number.map(|number| Strike { number, side }))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn threads() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

fn image(name: &str, to: &Path, docker: bool) -> Result<()> {
    let sample = samples::one(name)?;
    let names: Vec<_> = sample.tags.iter().map(|tag| format!("{}:{tag}", sample.name)).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    if docker {
        return archive::docker_archive(&sample.image, &names, to);
    }
    archive::oci_layout(&sample.image, names[0], to)
}
