//! The testkit's command line: a CRI client, sample images, a node to play with, the demo.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(about = "What Berth is tested with")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// PID 1 of a node under test; started by the testkit itself.
    #[command(hide = true)]
    Keeper {
        /// The node's directory on disk.
        disk: PathBuf,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Keeper { disk } => berth_testkit::keeper::run(&disk),
    }
}
