//! `berth-testkit cri`: the calls of crictl, which Debian does not have, under crictl's names.

mod containers;
mod images;
mod pods;
mod print;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};

use crate::cri::Cri;

/// The client's options and command.
#[derive(Debug, Args)]
pub struct Client {
    /// The CRI socket.
    #[arg(long, short, default_value = "/run/berth/berth.sock")]
    runtime_endpoint: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Name and version of the runtime
    Version,
    /// Conditions, handlers and features of the runtime
    Info,
    #[command(flatten)]
    Pods(pods::Command),
    #[command(flatten)]
    Containers(containers::Command),
    #[command(flatten)]
    Images(images::Command),
}

impl Client {
    /// Runs the command; returns the exit code.
    ///
    /// # Errors
    /// If a call or a file fails.
    pub async fn run(self) -> Result<u8> {
        let socket = match self.runtime_endpoint.to_str().and_then(|s| s.strip_prefix("unix://")) {
            Some(path) => PathBuf::from(path),
            None => self.runtime_endpoint,
        };
        let cri = Cri::connect(&socket).await?;
        match self.command {
            Command::Version => {
                let answer = cri.version().await?;
                print::line(&format!("Version:  {}", answer.version))?;
                print::line(&format!("RuntimeName:  {}", answer.runtime_name))?;
                print::line(&format!("RuntimeVersion:  {}", answer.runtime_version))?;
                print::line(&format!("RuntimeApiVersion:  {}", answer.runtime_api_version))?;
            }
            Command::Info => print::message("StatusResponse", &cri.status().await?)?,
            Command::Pods(command) => pods::run(&cri, command).await?,
            Command::Containers(command) => return containers::run(&cri, command).await,
            Command::Images(command) => images::run(&cri, command).await?,
        }
        Ok(0)
    }
}

/// Reads a message from a JSON file.
fn from_file<M: prost::Message + Default>(name: &str, path: &std::path::Path) -> Result<M> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    crate::json::read(name, &text).with_context(|| format!("in {}", path.display()))
}
