//! The testkit's command line: a CRI client, sample images, a node to play with, the demo.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use berth_testkit::client::Client;
use berth_testkit::crash::{Side, Strike};
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
    /// PID 1 of a node under test; started by the testkit itself.
    #[command(hide = true)]
    Keeper {
        /// The node's directory on disk.
        disk: PathBuf,
    },
    /// The stand-in CNI plugin; started by a daemon under test.
    #[command(hide = true)]
    Plugin,
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
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            return runtime.block_on(client.run()).map(ExitCode::from);
        }
        Command::Keeper { disk } => berth_testkit::keeper::run(&disk)?,
        Command::Plugin => return berth_testkit::plugin::run().map(ExitCode::from),
        Command::Trace { pid, number, after } => {
            let side = if after { Side::After } else { Side::Before };
            berth_testkit::tracer::run(pid, number.map(|number| Strike { number, side }))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
