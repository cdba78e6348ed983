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
    /// Look for damaged layers: by the number and the size of their files
    Verify {
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

/// How a shim publishes an event: it runs its `-publish-binary` in containerd's manner, `berth
/// --address … publish --topic … --namespace …`, the event on standard input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Publish {
    /// Where events are taken; "" if the shim does not say.
    pub(crate) address: String,
    pub(crate) topic: String,
    pub(crate) namespace: String,
}

impl Publish {
    /// None: this is no such call.
    pub(crate) fn parse(arguments: impl IntoIterator<Item = String>) -> Option<Self> {
        let mut publish = Self::default();
        let mut called = false;
        let mut arguments = arguments.into_iter().skip(1);
        while let Some(word) = arguments.next() {
            if word == "publish" {
                called = true;
                continue;
            }
            // Go's flags have one dash or two, and their values follow or stand behind a "=".
            let flag = word.strip_prefix('-')?.trim_start_matches('-');
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name.to_owned(), value.to_owned()),
                None => (flag.to_owned(), arguments.next()?),
            };
            match name.as_str() {
                "address" | "a" => publish.address = value,
                "topic" if called => publish.topic = value,
                "namespace" | "n" => publish.namespace = value,
                _ => return None,
            }
        }
        called.then_some(publish)
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
        let publish = |line: &str| Publish::parse(line.split(' ').map(str::to_owned));
        let wanted = |address: &str, topic: &str, namespace: &str| {
            let (address, topic) = (address.to_owned(), topic.to_owned());
            Some(Publish { address, topic, namespace: namespace.to_owned() })
        };
        assert_eq!(
            publish("berth publish --topic /tasks/exit --namespace k8s.io"),
            wanted("", "/tasks/exit", "k8s.io")
        );
        assert_eq!(
            publish("berth --address /run/x.sock publish --topic=/tasks/oom -namespace k8s.io"),
            wanted("/run/x.sock", "/tasks/oom", "k8s.io")
        );
        assert_eq!(publish("berth -address=/run/x.sock publish"), wanted("/run/x.sock", "", ""));
        for other in ["berth image import publish", "berth status", "berth", "berth --config"] {
            assert_eq!(publish(other), None, "{other}");
        }
    }
}
