//! `berth`: the daemon of the node, and the operator's command line.
//!
//! Owns: configuration and environment, which no other crate reads; how the parts are put together;
//! signals. Must not know how anything is done.

mod cli;
mod command;
mod config;
mod facts;
mod find;
mod handlers;
mod metrics;
mod node_service;
mod serve;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;

use cli::{Cli, Command};

fn main() -> ExitCode {
    if let Some(publish) = cli::Publish::parse(std::env::args()) {
        return end(wait(command::publish::run(publish)));
    }
    end(run(Cli::parse()))
}

fn end(done: anyhow::Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed standard error leaves nobody to tell.
            let _ = writeln!(std::io::stderr(), "berth: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let config = cli.config.as_deref();
    match cli.command {
        Command::Serve => serve::run(config),
        Command::Status(status) => wait(command::status::run(config, &status)),
        Command::Image(image) => wait(command::image::run(config, image)),
        Command::Config(command) => command::config::run(config, &command),
        Command::Version => {
            writeln!(std::io::stdout(), "berth {}", env!("CARGO_PKG_VERSION"))?;
            Ok(())
        }
    }
}

/// An error with its causes; many of them repeat the cause in their own text.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            let separator = if text.is_empty() { "" } else { ": " };
            text.push_str(separator);
            text.push_str(&cause);
        }
    }
    text
}

/// Runs a command that asks the daemon.
fn wait<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    runtime.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let refused = std::io::Error::other("refused");
        let error = anyhow::Error::new(refused).context("connect: refused").context("no daemon");
        assert_eq!(told(&error), "no daemon: connect: refused");
    }
}
