//! A node's CNI directories in a temporary place, with plugins that are shell scripts: each notes
//! how it was called and what it read, and then does as the test says.

#![allow(dead_code)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_cni::{Attachment, Deadlines, Network, PodIdentity, Settings};
use serde_json::Value;

/// Answers ADD with an address, VERSION with all versions, everything else with nothing.
pub(crate) const GOOD: &str = r#"
case $CNI_COMMAND in
ADD) echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"'$CNI_NETNS'"}],
      "ips":[{"address":"198.18.0.5/24","gateway":"198.18.0.1","interface":0}]}' ;;
VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}' ;;
esac"#;

/// Hands on what the plugin before it answered.
pub(crate) const PASS: &str = r#"
case $CNI_COMMAND in
ADD) sed -E 's/.*"prevResult":(\{.*\}),"type".*/\1/; s/,"runtimeConfig".*//' "$STDIN" ;;
VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}' ;;
esac"#;

pub(crate) struct Node {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) network: Network,
}

/// One call that a plugin noted.
#[derive(Debug)]
pub(crate) struct Called {
    pub(crate) plugin: String,
    pub(crate) verb: String,
    pub(crate) env: Vec<String>,
    pub(crate) stdin: Value,
}

impl Called {
    pub(crate) fn env(&self, key: &str) -> &str {
        let prefix = format!("{key}=");
        self.env.iter().find_map(|line| line.strip_prefix(&prefix)).unwrap_or_else(|| {
            panic!("{} of {} had no {key}", self.verb, self.plugin);
        })
    }
}

impl Node {
    pub(crate) fn new() -> Node {
        Node::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Settings)) -> Node {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["net.d", "bin", "calls"] {
            fs::create_dir(at(name)).unwrap();
        }
        let mut settings = Settings {
            conf_dir: at("net.d"),
            bin_dirs: vec![at("nothing"), at("bin")],
            cache_dir: at("cache"),
            env: vec![("PATH".into(), std::env::var_os("PATH").unwrap())],
            cgroups: Vec::new(),
            owned: BTreeSet::new(),
            template: None,
            deadlines: Deadlines { add: Duration::from_secs(20), ..Deadlines::default() },
        };
        change(&mut settings);
        Node { network: Network::new(settings), dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Configures a list of these plugins, each an object's inside after its type.
    pub(crate) fn configure(&self, version: &str, plugins: &[(&str, &str)]) {
        self.configure_with(version, "", plugins);
    }

    pub(crate) fn configure_with(&self, version: &str, more: &str, plugins: &[(&str, &str)]) {
        let plugins: Vec<String> =
            plugins.iter().map(|(kind, rest)| format!(r#"{{"type":"{kind}"{rest}}}"#)).collect();
        let text = format!(
            r#"{{"cniVersion":"{version}","name":"pods"{more},"plugins":[{}]}}"#,
            plugins.join(",")
        );
        fs::write(self.path("net.d/10-pods.conflist"), text).unwrap();
    }

    /// Installs a plugin: `body` sees what it read in the file $STDIN.
    pub(crate) fn plugin(&self, name: &str, body: &str) {
        let calls = self.path("calls");
        let script = format!(
            "#!/bin/sh\n\
             STDIN=$(mktemp {calls}/tmp.XXXXXX)\n\
             cat > \"$STDIN\"\n\
             N=$(ls {calls} | grep -c '^call\\.')\n\
             CALL={calls}/call.$(printf %03d $N).{name}.$CNI_COMMAND\n\
             env > $CALL.new\n\
             echo ---STDIN--- >> $CALL.new\n\
             cat \"$STDIN\" >> $CALL.new\n\
             mv $CALL.new $CALL\n\
             {body}\n",
            calls = calls.display(),
        );
        let path = self.path("bin").join(name);
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The calls so far, in order.
    pub(crate) fn calls(&self) -> Vec<Called> {
        let mut names: Vec<_> = fs::read_dir(self.path("calls"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| is_call(path))
            .collect();
        names.sort();
        names.iter().map(|path| called(path)).collect()
    }

    /// The calls so far as `VERB plugin`, VERSION left out.
    pub(crate) fn log(&self) -> Vec<String> {
        let calls = self.calls();
        let told = calls.iter().filter(|call| call.verb != "VERSION");
        told.map(|call| format!("{} {}", call.verb, call.plugin)).collect()
    }

    pub(crate) fn forget_calls(&self) {
        fs::remove_dir_all(self.path("calls")).unwrap();
        fs::create_dir(self.path("calls")).unwrap();
    }
}

fn is_call(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_str().unwrap();
    name.starts_with("call.") && !name.ends_with(".new")
}

fn called(path: &Path) -> Called {
    let name = path.file_name().unwrap().to_str().unwrap();
    let mut parts = name.split('.').skip(2);
    let (plugin, verb) = (parts.next().unwrap().to_owned(), parts.next().unwrap().to_owned());
    let text = fs::read_to_string(path).unwrap();
    let (env, stdin) = text.split_once("---STDIN---\n").unwrap();
    Called {
        plugin,
        verb,
        env: env.lines().map(str::to_owned).collect(),
        stdin: serde_json::from_str(stdin).unwrap_or_else(|e| panic!("{e}: {stdin}")),
    }
}

/// A pod whose netns is this process's own: the stand-ins never enter it.
pub(crate) fn pod(id: &str) -> Attachment {
    Attachment {
        container_id: id.into(),
        netns: "/proc/self/ns/net".into(),
        pod: PodIdentity { namespace: "default".into(), name: "web".into(), uid: "u1".into() },
        ..Attachment::default()
    }
}
