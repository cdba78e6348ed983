//! One call of one plugin: environment, stdin, deadline, and what its output means.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_job::{Job, Outcome};
use berth_sys::spawn::Spawn;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use crate::cache::Entry;
use crate::{Error, PluginError, Result, Settings};

/// More than this is not an answer.
const MAX_OUTPUT: usize = 1 << 20;

/// How much of what a plugin printed goes into an error's message.
const EXCERPT: usize = 300;

/// How much of each part of an error object does: rules of a firewall are long.
const SAID: usize = 2000;

/// How often, and after what pause, an executable that is being replaced is tried again.
const BUSY_TRIES: u32 = 5;
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// What a plugin is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Attach.
    Add,
    /// Detach.
    Del,
    /// Is it still attached?
    Check,
    /// Can you serve?
    Status,
    /// Drop what nobody holds.
    Gc,
    /// Which versions do you speak?
    Version,
}

impl Verb {
    /// As CNI_COMMAND spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Add => "ADD",
            Verb::Del => "DEL",
            Verb::Check => "CHECK",
            Verb::Status => "STATUS",
            Verb::Gc => "GC",
            Verb::Version => "VERSION",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a plugin is told by its environment.
#[derive(Clone, Debug)]
pub(crate) struct Call<'a> {
    verb: Verb,
    container_id: &'a str,
    netns: &'a Path,
    if_name: &'a str,
    args: &'a [(String, String)],
}

impl<'a> Call<'a> {
    /// A call about an attachment.
    pub(crate) fn of(verb: Verb, entry: &'a Entry) -> Call<'a> {
        let netns = if verb == Verb::Add { &entry.netns } else { entry.netns_now() };
        Call {
            verb,
            container_id: &entry.container_id,
            netns,
            if_name: &entry.if_name,
            args: &entry.cni_args,
        }
    }

    /// A call about a network. VERSION gets dummies: old plugins insist on the variables.
    pub(crate) fn about(verb: Verb) -> Call<'static> {
        let dummy = if verb == Verb::Version { "dummy" } else { "" };
        Call { verb, container_id: dummy, netns: Path::new(dummy), if_name: dummy, args: &[] }
    }

    /// All six variables, empty ones included, as libcni sets them.
    fn env(&self, path: &OsStr) -> [(OsString, OsString); 6] {
        [
            ("CNI_COMMAND", self.verb.as_str().into()),
            ("CNI_CONTAINERID", self.container_id.into()),
            ("CNI_NETNS", self.netns.into()),
            ("CNI_ARGS", cni_args(self.args).into()),
            ("CNI_IFNAME", self.if_name.into()),
            ("CNI_PATH", path.to_owned()),
        ]
        .map(|(key, value)| (key.into(), value))
    }

    /// Reads an answer that must be a JSON object.
    pub(crate) fn object(&self, plugin: &str, stdout: &[u8]) -> Result<Value> {
        let problem = match serde_json::from_slice::<Value>(stdout) {
            Ok(value) if value.is_object() => return Ok(value),
            Ok(_) => format!("not a JSON object: {}", excerpt(stdout)),
            Err(_) if stdout.is_empty() => "it printed nothing".to_owned(),
            Err(e) => format!("{e}: {}", excerpt(stdout)),
        };
        Err(Error::Answer { plugin: plugin.to_owned(), verb: self.verb, problem })
    }
}

fn cni_args(args: &[(String, String)]) -> String {
    let pairs: Vec<String> = args.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(";")
}

/// Finds and runs plugins.
#[derive(Debug)]
pub(crate) struct Runner {
    bin_dirs: Vec<PathBuf>,
    env: Vec<(OsString, OsString)>,
    cgroups: Vec<PathBuf>,
}

impl Runner {
    pub(crate) fn new(settings: &Settings) -> Runner {
        let foreign =
            |(key, _): &&(OsString, OsString)| !key.as_encoded_bytes().starts_with(b"CNI_");
        Runner {
            bin_dirs: settings.bin_dirs.clone(),
            env: settings.env.iter().filter(foreign).cloned().collect(),
            cgroups: settings.cgroups.clone(),
        }
    }

    /// The executable of a plugin.
    pub(crate) fn find(&self, plugin: &str) -> Result<PathBuf> {
        let executable = |path: &PathBuf| {
            std::fs::metadata(path)
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        };
        let found = self.bin_dirs.iter().map(|dir| dir.join(plugin)).find(executable);
        found.ok_or_else(|| {
            let dirs: Vec<_> = self.bin_dirs.iter().map(|dir| dir.display().to_string()).collect();
            Error::Missing { plugin: plugin.to_owned(), searched: dirs.join(", ") }
        })
    }

    /// Runs a plugin and returns what it printed if it succeeded.
    pub(crate) async fn run(
        &self,
        plugin: &str,
        call: &Call<'_>,
        stdin: Vec<u8>,
        deadline: Instant,
    ) -> Result<Vec<u8>> {
        let (verb, begin) = (call.verb, Instant::now());
        let path = self.find(plugin)?;
        let outcome = self
            .job(&path, call, stdin, deadline)
            .await
            .map_err(|error| not_ended(plugin, verb, error))?;
        tracing::debug!(plugin, %verb, container = call.container_id, exit = %outcome.exit,
            took = ?begin.elapsed(), "CNI plugin ended");
        if !outcome.exit.success() {
            let how = outcome.exit.to_string();
            return Err(failure(plugin, verb, &how, &outcome.stdout, &outcome.stderr));
        }
        if outcome.cut && outcome.stdout.len() >= MAX_OUTPUT {
            let problem =
                format!("it printed more than {MAX_OUTPUT} bytes: {}", excerpt(&outcome.stdout));
            return Err(Error::Answer { plugin: plugin.to_owned(), verb, problem });
        }
        Ok(outcome.stdout)
    }

    async fn job(
        &self,
        path: &Path,
        call: &Call<'_>,
        stdin: Vec<u8>,
        deadline: Instant,
    ) -> std::result::Result<Outcome, berth_job::Error> {
        let search = std::env::join_paths(&self.bin_dirs).unwrap_or_default();
        let mut tries = BUSY_TRIES;
        loop {
            let spawn = Spawn::new(path)
                .envs(self.env.iter().map(|(key, value)| (key, value)))
                .envs(call.env(&search))
                .cwd("/")
                .cgroups(&self.cgroups);
            let limit = deadline.saturating_duration_since(Instant::now());
            let job = Job::new(spawn, limit).capture(MAX_OUTPUT).stdin(stdin.clone());
            match job.run().await {
                Err(error) if tries > 0 && is_being_written(&error) => {
                    tries -= 1;
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                other => return other,
            }
        }
    }
}

/// An installer has the executable open for writing (ETXTBSY).
fn is_being_written(error: &berth_job::Error) -> bool {
    matches!(error, berth_job::Error::System(e @ berth_sys::Error::Spawn { .. })
        if e.kind() == berth_sys::Kind::Busy)
}

fn not_ended(plugin: &str, verb: Verb, error: berth_job::Error) -> Error {
    let plugin = plugin.to_owned();
    match error {
        berth_job::Error::TimedOut { after, said, remains, .. } => {
            let said = excerpt(said.as_bytes());
            let said = if said.is_empty() { said } else { format!("; it said: {said}") };
            let remains = remains.map(|r| format!("; still there: {r}")).unwrap_or_default();
            Error::TimedOut { plugin, verb, after, detail: said + &remains }
        }
        source => Error::Run { plugin, verb, source },
    }
}

/// The error object on stdout of a failed plugin; plugins written in haste use stderr.
pub(crate) fn failure(plugin: &str, verb: Verb, how: &str, stdout: &[u8], stderr: &[u8]) -> Error {
    #[derive(Deserialize)]
    struct Wire {
        code: u64,
        #[serde(default)]
        msg: String,
        #[serde(default)]
        details: String,
    }
    if let Ok(Wire { code, msg, details }) = serde_json::from_slice(stdout) {
        let part = |text: String| cut(text.as_bytes(), SAID);
        let error = PluginError { code, msg: part(msg), details: part(details) };
        return Error::Plugin { plugin: plugin.to_owned(), verb, error };
    }
    let said = if stdout.trim_ascii().is_empty() { stderr } else { stdout };
    let problem = if said.trim_ascii().is_empty() {
        format!("it {how} and printed no error")
    } else {
        format!("it {how} and printed no error object but: {}", excerpt(said))
    };
    Error::Answer { plugin: plugin.to_owned(), verb, problem }
}

/// The beginning of what was printed, on one line, harmless in a log.
pub(crate) fn excerpt(bytes: &[u8]) -> String {
    cut(bytes, EXCERPT)
}

fn cut(bytes: &[u8], limit: usize) -> String {
    let bytes = bytes.trim_ascii();
    let (shown, rest) = bytes.split_at(bytes.len().min(limit));
    let mut text = String::new();
    for c in String::from_utf8_lossy(shown).chars() {
        if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
    }
    if rest.is_empty() { text } else { format!("{text} … and {} bytes more", rest.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_repeats_no_more_than_a_message_should() {
        let long = format!("iptables:\nbad\x1b[31m{}", "x".repeat(100_000));
        let object = serde_json::json!({"code": 7, "msg": long, "details": long}).to_string();
        for printed in [object, long.clone(), format!("{{{long}")] {
            let text = failure("a", Verb::Add, "ended with code 1", printed.as_bytes(), b"");
            let text = text.to_string();
            assert!(text.len() < 5000 && !text.contains(char::is_control), "{text:?}");
        }
        let error = failure("a", Verb::Add, "", br#"{"code":7,"msg":"a\nb"}"#, b"");
        assert!(matches!(&error, Error::Plugin { error, .. } if error.msg == r"a\nb"), "{error}");
    }
}
