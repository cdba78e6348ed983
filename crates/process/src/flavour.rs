//! How OCI runtimes differ. Whatever one of them is told otherwise than the others, or tells
//! otherwise, is asked here; where its containers themselves are of another kind, that is
//! [`crate::body`]'s.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use berth_sys::spawn::Spawn;
use serde::{Deserialize, Serialize};

use crate::bundle::Config;
use crate::command::{self, Said};
use crate::netstack;
use crate::process::own_program;
use crate::reaper::Reaper;

/// A runtime that does not say its name by then has none that we know.
const ASKED: Duration = Duration::from_secs(10);
/// The annotation by which a spec asks for the node's network stack.
const NETWORK: &str = "dev.berth.guest-network";

/// An OCI runtime whose peculiarities are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flavour {
    /// crun.
    Crun,
    /// runc.
    Runc,
    /// gVisor's runsc: containers are guests of a kernel of their own.
    Runsc,
    /// Any other: what the command line of OCI runtimes says, and nothing more.
    #[default]
    Other,
}

impl Flavour {
    /// Which one a binary is: crun and runc by their file names, every other one by its word.
    pub(crate) async fn of(reaper: &Arc<Reaper>, binary: &Path) -> Self {
        match binary.file_name().and_then(|name| name.to_str()) {
            Some("crun") => Self::Crun,
            Some("runc") => Self::Runc,
            _ => Self::asked(reaper, binary).await.unwrap_or_default(),
        }
    }

    async fn asked(reaper: &Arc<Reaper>, binary: &Path) -> Option<Self> {
        let (mut said, stdout) = Said::new().ok()?;
        let program = Spawn::new(binary).arg("--version").cwd("/").stdout(stdout);
        let code = said.during(command::run(reaper, program, ASKED)).await.ok()?;
        (code == Some(0)).then(|| Self::of_version(&said.text()))
    }

    /// Which one says this of itself when it is asked for its version.
    fn of_version(said: &str) -> Self {
        match said.split_once(" version ").map(|(name, _)| name) {
            Some("crun") => Self::Crun,
            Some("runc") => Self::Runc,
            Some("runsc") => Self::Runsc,
            _ => Self::Other,
        }
    }

    /// Whether its containers are guests of a kernel of their own.
    pub(crate) fn has_guests(self) -> bool {
        self == Self::Runsc
    }

    /// What stands before the verb in each call, beyond what all runtimes are told.
    pub(crate) fn flags(self, network: Network) -> Vec<&'static str> {
        match self {
            Self::Crun | Self::Runc | Self::Other => Vec::new(),
            // A file for the overlay would collide with that of an earlier container of this id;
            // the writable layer is the daemon's.
            Self::Runsc => vec!["--platform=systrap", "--overlay2=none", network.flag()],
        }
    }

    /// The program of a call, to which its arguments are added.
    pub(crate) fn program(self, binary: &Path, verb: &str, network: Network) -> Spawn {
        match own_program() {
            Ok(own) if self == Self::Runsc && verb == "start" && network == Network::Own => {
                Spawn::new(own).arg(netstack::VERB).arg(binary)
            }
            _ => Spawn::new(binary),
        }
    }

    /// The files in which the runtime keeps what it knows of a container.
    pub(crate) fn state_of(self, root: &Path, id: &str) -> Vec<PathBuf> {
        match self {
            Self::Crun | Self::Runc | Self::Other => {
                Some(root.join(id)).filter(|path| path.exists()).into_iter().collect()
            }
            // ID_sandbox:POD.state and .lock, in one directory for all.
            Self::Runsc => {
                let prefix = format!("{id}_sandbox:");
                named(root, |name| name.starts_with(&prefix))
            }
        }
    }

    /// What the runtime leaves behind when it has deleted a sandbox: whoever looked at all of its
    /// containers has made the locks of those anew that were deleted meanwhile.
    pub(crate) fn left_of(self, root: &Path, sandbox: &str) -> Vec<PathBuf> {
        if self != Self::Runsc {
            return Vec::new();
        }
        let suffix = format!("_sandbox:{sandbox}.lock");
        let mut locks = named(root, |name| name.ends_with(&suffix));
        locks.retain(|lock| !lock.with_extension("state").exists());
        locks
    }
}

/// The entries of a directory whose names fit.
fn named(root: &Path, fits: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    let fit = entries.filter(|entry| fits(&entry.file_name().to_string_lossy()));
    fit.map(|entry| entry.path()).collect()
}

/// Whose network stack a sandbox uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    /// Its own, over the devices of its network namespace.
    Own,
    /// The node's kernel's.
    Host,
}

impl Network {
    /// What a spec asks for. The node's own network is never taken from the node.
    pub(crate) fn of(config: &Config) -> Self {
        let own = config.namespace("network").is_some();
        match config.annotations.get(NETWORK).map(String::as_str) {
            Some("node") => Self::Host,
            _ if own => Self::Own,
            _ => Self::Host,
        }
    }

    fn flag(self) -> &'static str {
        match self {
            Self::Own => "--network=sandbox",
            Self::Host => "--network=host",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_says_what_it_is() {
        let of = Flavour::of_version;
        assert_eq!(of("runsc version 0.0~20240729.0\nspec: 1.0.2-dev\n"), Flavour::Runsc);
        assert_eq!(of("runsc version release-20250319.0\nspec: 1.1.0-rc.1\n"), Flavour::Runsc);
        assert_eq!(of("crun version 1.8.1\n"), Flavour::Crun);
        assert_eq!(of("runc version 1.1.5+ds1\n"), Flavour::Runc);
        assert_eq!(of("youki version: 0.5\n"), Flavour::Other);
        assert_eq!(of(""), Flavour::Other);
    }

    #[tokio::test]
    async fn a_file_name_is_no_answer() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let script = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let reaper = Arc::default();
        let renamed = script("sandboxer", "[ $1 = --version ] && echo runsc version 1");
        assert_eq!(Flavour::of(&reaper, &renamed).await, Flavour::Runsc);
        let silent = script("runsc", "exit 3");
        assert_eq!(Flavour::of(&reaper, &silent).await, Flavour::Other);
        assert_eq!(Flavour::of(&reaper, Path::new("/no/such")).await, Flavour::Other);
        assert_eq!(Flavour::of(&reaper, Path::new("/any/runc")).await, Flavour::Runc);
    }

    #[test]
    fn the_state_of_a_container_is_found_and_no_other_s() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a_sandbox:p.state", "a_sandbox:p.lock", "ab_sandbox:p.state", "runsc-p.sock"]
        {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        std::fs::create_dir(dir.path().join("c")).unwrap();
        assert_eq!(Flavour::Runsc.state_of(dir.path(), "a").len(), 2);
        assert_eq!(Flavour::Runsc.state_of(dir.path(), "p").len(), 0);
        assert_eq!(Flavour::Runsc.left_of(dir.path(), "p"), [""; 0].map(PathBuf::from));
        std::fs::remove_file(dir.path().join("a_sandbox:p.state")).unwrap();
        let lock = dir.path().join("a_sandbox:p.lock");
        assert_eq!(Flavour::Runsc.left_of(dir.path(), "p"), std::slice::from_ref(&lock));
        std::fs::remove_file(lock).unwrap();
        assert_eq!(Flavour::Crun.state_of(dir.path(), "c"), [dir.path().join("c")]);
        assert_eq!(Flavour::Crun.state_of(dir.path(), "a").len(), 0);
    }

    #[test]
    fn a_spec_says_whose_network_stack_it_wants() {
        let of = |spec: &str| Network::of(&serde_json::from_str(spec).unwrap());
        let namespaces = r#""linux":{"namespaces":[{"type":"network","path":"/n"}]}"#;
        let flag =
            |value: &str| format!(r#""annotations":{{"dev.berth.guest-network":"{value}"}}"#);
        assert_eq!(of(&format!("{{{namespaces}}}")), Network::Own);
        assert_eq!(of(&format!("{{{namespaces},{}}}", flag("node"))), Network::Host);
        assert_eq!(of("{}"), Network::Host);
        assert_eq!(of(&format!("{{{}}}", flag("own"))), Network::Host);
    }
}
