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
    /// Pass an event on, as shims call it (containerd's `-publish-binary`); Berth asks them instead
    #[command(hide = true)]
    Publish(Publish),
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

/// What a shim passes; read and ignored.
#[derive(Debug, Args)]
pub(crate) struct Publish {
    /// Anything
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) rest: Vec<String>,
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
    fn a_shims_publish_is_taken_whatever_it_says() {
        let line = ["berth", "publish", "--topic", "/tasks/exit", "-namespace", "k8s.io"];
        assert!(Cli::try_parse_from(line).is_ok());
    }
}
