//! Pods on the command line.

use std::path::PathBuf;

use anyhow::Result;
use berth_proto::cri::v1 as cri;
use clap::Subcommand;

use super::print;
use crate::cri::{Cri, in_time};
use crate::specs::Pod;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List pods
    Pods,
    /// Run a pod from a JSON file
    Runp {
        /// The runtime handler
        #[arg(long, short, default_value = "")]
        runtime: String,
        /// A PodSandboxConfig
        config: PathBuf,
    },
    /// Stop pods
    Stopp {
        /// Their ids
        ids: Vec<String>,
    },
    /// Remove pods
    Rmp {
        /// Stop them first
        #[arg(long, short)]
        force: bool,
        /// Their ids
        ids: Vec<String>,
    },
    /// Everything about pods
    Inspectp {
        /// Their ids
        ids: Vec<String>,
    },
    /// Figures of pods
    Statsp {
        /// Of one pod only
        id: Option<String>,
    },
}

pub(super) async fn run(client: &Cri, command: Command) -> Result<()> {
    match command {
        Command::Pods => list(client).await,
        Command::Runp { runtime, config } => {
            let config: cri::PodSandboxConfig = super::from_file("PodSandboxConfig", &config)?;
            let pod = Pod::new("").with(|own| *own = config).by(&runtime);
            print::line(&client.run(&pod).await?.id)
        }
        Command::Stopp { ids } => {
            for id in ids {
                client.stop_pod(&id).await?;
                print::line(&format!("Stopped sandbox {id}"))?;
            }
            Ok(())
        }
        Command::Rmp { force, ids } => {
            for id in ids {
                if force {
                    client.stop_pod(&id).await?;
                }
                client.remove_pod(&id).await?;
                print::line(&format!("Removed sandbox {id}"))?;
            }
            Ok(())
        }
        Command::Inspectp { ids } => {
            for id in ids {
                print::message("PodSandboxStatusResponse", &client.pod_details(&id).await?)?;
            }
            Ok(())
        }
        Command::Statsp { id } => {
            let filter = id.map(|id| cri::PodSandboxStatsFilter { id, ..Default::default() });
            let request = in_time(cri::ListPodSandboxStatsRequest { filter });
            let answer = client.runtime.clone().list_pod_sandbox_stats(request).await?;
            print::message("ListPodSandboxStatsResponse", &answer.into_inner())
        }
    }
}

async fn list(client: &Cri) -> Result<()> {
    let mut rows =
        vec![print::header(&["POD ID", "STATE", "NAME", "NAMESPACE", "ATTEMPT", "RUNTIME"])];
    for pod in client.pods().await? {
        let metadata = pod.metadata.clone().unwrap_or_default();
        rows.push(vec![
            print::short(&pod.id),
            format!("{:?}", pod.state()),
            metadata.name,
            metadata.namespace,
            metadata.attempt.to_string(),
            pod.runtime_handler,
        ]);
    }
    print::table(&rows)
}
