//! Containers on the command line.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use berth_proto::cri::v1 as cri;
use clap::Subcommand;

use super::print;
use crate::cri::{Cri, RunningPod, in_time};
use crate::specs::Container;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List running containers
    Ps {
        /// List those that do not run, too
        #[arg(long, short)]
        all: bool,
    },
    /// Create a container from JSON files
    Create {
        /// The pod
        pod: String,
        /// A ContainerConfig
        config: PathBuf,
        /// The pod's PodSandboxConfig
        pod_config: PathBuf,
    },
    /// Start containers
    Start {
        /// Their ids
        ids: Vec<String>,
    },
    /// Stop containers
    Stop {
        /// Seconds to end by themselves
        #[arg(long, short, default_value_t = 0)]
        timeout: i64,
        /// Their ids
        ids: Vec<String>,
    },
    /// Remove containers
    Rm {
        /// Stop them first
        #[arg(long, short)]
        force: bool,
        /// Their ids
        ids: Vec<String>,
    },
    /// Run a command in a container
    Exec {
        /// Wait for its end; the only way here
        #[arg(long, short, required = true)]
        sync: bool,
        /// Seconds that it may take; 0 is no limit
        #[arg(long, default_value_t = 0)]
        timeout: i64,
        /// The container
        id: String,
        /// The command
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Print a container's log file
    Logs {
        /// The container
        id: String,
    },
    /// Figures of containers
    Stats {
        /// Of one container only
        id: Option<String>,
    },
    /// Everything about containers
    Inspect {
        /// Their ids
        ids: Vec<String>,
    },
}

pub(super) async fn run(client: &Cri, command: Command) -> Result<u8> {
    match command {
        Command::Ps { all } => list(client, all).await?,
        Command::Create { pod, config, pod_config } => {
            let config: cri::ContainerConfig = super::from_file("ContainerConfig", &config)?;
            let pod_config = super::from_file("PodSandboxConfig", &pod_config)?;
            let container = Container::new("", "").with(|own| *own = config);
            let pod = RunningPod { id: pod, config: pod_config };
            print::line(&client.create(&pod, &container).await?)?;
        }
        Command::Start { ids } => {
            for id in ids {
                client.start(&id).await?;
                print::line(&id)?;
            }
        }
        Command::Stop { timeout, ids } => {
            for id in ids {
                client.stop(&id, timeout).await?;
                print::line(&id)?;
            }
        }
        Command::Rm { force, ids } => {
            for id in ids {
                if force {
                    client.stop(&id, 0).await?;
                }
                client.remove(&id).await?;
                print::line(&id)?;
            }
        }
        Command::Exec { sync: _, timeout, id, command } => {
            let words: Vec<_> = command.iter().map(String::as_str).collect();
            let answer = client.exec_within(&id, &words, timeout).await?;
            print::bytes(&answer.stdout)?;
            eprint!("{}", String::from_utf8_lossy(&answer.stderr));
            return Ok(u8::try_from(answer.exit_code).unwrap_or(255));
        }
        Command::Logs { id } => logs(client, &id).await?,
        Command::Stats { id } => {
            let filter = id.map(|id| cri::ContainerStatsFilter { id, ..Default::default() });
            let request = in_time(cri::ListContainerStatsRequest { filter });
            let answer = client.runtime.clone().list_container_stats(request).await?;
            print::message("ListContainerStatsResponse", &answer.into_inner())?;
        }
        Command::Inspect { ids } => {
            for id in ids {
                print::message("ContainerStatusResponse", &client.container_details(&id).await?)?;
            }
        }
    }
    Ok(0)
}

async fn list(client: &Cri, all: bool) -> Result<()> {
    let mut rows =
        vec![print::header(&["CONTAINER", "IMAGE", "STATE", "NAME", "ATTEMPT", "POD ID"])];
    for container in client.containers().await? {
        if !all && container.state() != cri::ContainerState::ContainerRunning {
            continue;
        }
        let metadata = container.metadata.clone().unwrap_or_default();
        rows.push(vec![
            print::short(&container.id),
            print::short(&container.image_ref),
            format!("{:?}", container.state()),
            metadata.name,
            metadata.attempt.to_string(),
            print::short(&container.pod_sandbox_id),
        ]);
    }
    print::table(&rows)
}

/// The log's text without the four fields that CRI puts before it.
async fn logs(client: &Cri, id: &str) -> Result<()> {
    let path = client.container(id).await?.log_path;
    let log = std::fs::read(&path).with_context(|| format!("read the log {path}"))?;
    for line in log.split_inclusive(|byte| *byte == b'\n') {
        let mut fields = line.splitn(4, |byte| *byte == b' ');
        let part = fields.nth(2).unwrap_or_default();
        let text = fields.next().unwrap_or_default();
        // A cut line goes on in the next entry.
        let end = if part == b"P" { text.len().saturating_sub(1) } else { text.len() };
        print::bytes(&text[..end])?;
    }
    Ok(())
}
