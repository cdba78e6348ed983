//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// A Kubernetes node runtime.
#[derive(Debug, Parser)]
#[command(name = "berth", version, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// Configuration file; its drop-ins are in the directory of the same name with `.d`
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) config: Option<PathBuf>,
    /// What to do
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the node's daemon
    Serve,
    /// Show pods, what they hold, work in progress and leftovers
    Status(Status),
    /// Look at and change the images of the node
    #[command(subcommand)]
    Image(Image),
    /// Check or show the configuration
    #[command(subcommand)]
    Config(Config),
    /// Show the version
    Version,
}

/// `berth status`.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Print everything as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) daemon: Daemon,
}

/// Which daemon to ask.
#[derive(Debug, Args)]
pub(crate) struct Daemon {
    /// The daemon's socket, if not the configured one
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
}

/// `berth image`.
#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// List the images
    List {
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Import an OCI layout or a docker archive
    Import {
        /// Directory or archive
        path: PathBuf,
        /// Name to give the image
        #[arg(long, value_name = "REF")]
        name: Option<String>,
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Pull an image
    Pull {
        /// Its name
        reference: String,
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Remove an image, with all its names
    Rm {
        /// Any of its names, or its id
        reference: String,
        #[command(flatten)]
        daemon: Daemon,
    },
}

/// `berth config`.
#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Read the configuration and say whether it will do
    Check,
    /// Print the configuration in effect
    Dump,
    /// Print every key with its default and its meaning
    Default,
}

/// Is this how a shim publishes an event? It calls its `-publish-binary` in containerd's manner:
/// `berth --address … publish --topic … --namespace …`, the event on standard input.
pub(crate) fn is_publish(arguments: impl IntoIterator<Item = String>) -> bool {
    let mut arguments = arguments.into_iter().skip(1);
    let Some(first) = arguments.next() else { return false };
    match first.trim_start_matches('-') {
        "publish" => true,
        "address" => arguments.nth(1).is_some_and(|word| word == "publish"),
        flag => {
            flag.starts_with("address=") && arguments.next().is_some_and(|word| word == "publish")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_shims_publish_is_known_by_its_form() {
        let publish = |line: &str| is_publish(line.split(' ').map(str::to_owned));
        assert!(publish("berth publish --topic /tasks/exit --namespace k8s.io"));
        assert!(publish("berth --address /run/x.sock publish --topic /tasks/exit"));
        assert!(publish("berth -address=/run/x.sock publish"));
        assert!(!publish("berth image import publish"));
        assert!(!publish("berth status"));
        assert!(!publish("berth"));
    }
}
