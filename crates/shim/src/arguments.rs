//! The command line that all shims share.

use std::path::PathBuf;

use crate::error::{Error, Result};

/// What the shim is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start a server for a pod, or find the one there is.
    Start,
    /// Clean up after a dead server.
    Delete,
    /// Be the server: what `start` starts.
    Serve,
    /// Say what this is.
    Info,
}

/// The command line, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arguments {
    /// What to do.
    pub action: Action,
    /// containerd's namespace.
    pub namespace: String,
    /// Where the daemon listens; of no use to us.
    pub address: String,
    /// The program that publishes events where there is no socket for them.
    pub publish_binary: String,
    /// The pod, or a container of it.
    pub id: String,
    /// Its bundle; otherwise the working directory.
    pub bundle: Option<PathBuf>,
    /// Keep what the server says.
    pub debug: bool,
    /// Our own, for `serve`: the state directory.
    pub state: Option<PathBuf>,
    /// Our own, for `serve`: the runtime of tasks that name none, its root, systemd.
    pub runtime: (String, String, bool),
}

impl Arguments {
    /// Reads arguments without the program's name: `-flag value`, `--flag=value`, then a verb.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut parsed = Self {
            action: Action::Start,
            namespace: String::new(),
            address: String::new(),
            publish_binary: String::new(),
            id: String::new(),
            bundle: None,
            debug: false,
            state: None,
            runtime: Default::default(),
        };
        let mut action = None;
        let mut rest = arguments.into_iter();
        while let Some(argument) = rest.next() {
            let Some(flag) = argument.strip_prefix('-') else {
                action = Some(verb(&argument)?);
                continue;
            };
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            match name {
                "debug" => parsed.debug = value.is_none_or(|v| v == "true"),
                "systemd-cgroup" => parsed.runtime.2 = value.is_none_or(|v| v == "true"),
                "info" => action = Some(Action::Info),
                // Go's version flag; an answer to it is an answer to -info.
                "v" | "version" => action = Some(Action::Info),
                _ => {
                    let value = value.or_else(|| rest.next());
                    parsed.set(name, value.ok_or_else(|| usage(&format!("-{name} what?")))?)?;
                }
            }
        }
        parsed.action = action.ok_or_else(|| usage("say start or delete"))?;
        if parsed.id.is_empty() && parsed.action != Action::Info {
            return Err(usage("-id is missing"));
        }
        Ok(parsed)
    }

    fn set(&mut self, name: &str, value: String) -> Result<()> {
        match name {
            // It becomes a part of file names.
            "namespace" if value.contains('/') => {
                return Err(usage(&format!("a namespace {value:?}")));
            }
            "namespace" => self.namespace = value,
            "address" => self.address = value,
            "publish-binary" => self.publish_binary = value,
            "id" => self.id = value,
            "bundle" => self.bundle = Some(value.into()),
            "state" => self.state = Some(value.into()),
            "runtime-binary" => self.runtime.0 = value,
            "runtime-root" => self.runtime.1 = value,
            // Old daemons' flags that mean nothing to us.
            "socket" | "workdir" => {}
            _ => return Err(usage(&format!("unknown flag -{name}"))),
        }
        Ok(())
    }
}

fn verb(text: &str) -> Result<Action> {
    match text {
        "start" => Ok(Action::Start),
        "delete" => Ok(Action::Delete),
        "serve" => Ok(Action::Serve),
        _ => Err(usage(&format!("unknown command {text:?}"))),
    }
}

fn usage(what: &str) -> Error {
    Error::Usage(format!(
        "{what}; usage: -namespace NS -address ADDR -publish-binary BIN -id ID [-bundle DIR] \
         [-debug] start|delete"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments> {
        Arguments::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn both_ways_of_writing_a_flag_are_read() {
        let line = "-namespace k8s.io -address /a -publish-binary /b -id pod -debug start";
        let arguments = parse(line).unwrap();
        assert_eq!((arguments.action, arguments.debug), (Action::Start, true));
        assert_eq!((arguments.namespace.as_str(), arguments.id.as_str()), ("k8s.io", "pod"));
        let arguments = parse("--id=c --bundle=/b/c -debug=false delete").unwrap();
        assert_eq!(arguments.bundle.as_deref(), Some("/b/c".as_ref()));
        assert_eq!((arguments.action, arguments.debug), (Action::Delete, false));
        assert_eq!(parse("-info").unwrap().action, Action::Info);
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "",
            "start",
            "-id",
            "-id x",
            "-id x stop",
            "-id x -no-such-flag y start",
            "-namespace a/b -id x start",
        ] {
            assert!(parse(line).is_err(), "{line:?}");
        }
    }
}
