//! The chain of CNI plugins, executed one after another as any runtime does.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// The plugins of one configuration list, looked up once.
#[derive(Debug)]
pub(super) struct Chain {
    plugins: Vec<(PathBuf, Value)>,
    path: String,
}

impl Chain {
    /// Finds every plugin of a list.
    ///
    /// # Errors
    /// If the list names none, or one that is not there.
    pub(super) fn new(list: &Value, dirs: &[String]) -> Result<Self> {
        let mut plugins = Vec::new();
        for plugin in list["plugins"].as_array().context("a list of CNI plugins")? {
            let name = plugin["type"].as_str().context("a plugin's type")?;
            let found = dirs.iter().map(|dir| Path::new(dir).join(name));
            let program = found.into_iter().find(|path| path.exists());
            let mut config = plugin.clone();
            config["name"] = list["name"].clone();
            config["cniVersion"] = list["cniVersion"].clone();
            plugins.push((program.with_context(|| format!("no CNI plugin {name}"))?, config));
        }
        Ok(Self { plugins, path: dirs.join(":") })
    }

    /// ADD; returns the result that DEL wants again.
    ///
    /// # Errors
    /// If a plugin fails, with what it said.
    pub(super) fn add(&self, id: &str, netns: &Path) -> Result<Value> {
        let mut result = Value::Null;
        for plugin in &self.plugins {
            let said = self.invoke("ADD", plugin, (id, netns), &result)?;
            result = serde_json::from_slice(&said).context("a plugin's result")?;
        }
        Ok(result)
    }

    /// DEL, in reverse.
    ///
    /// # Errors
    /// If a plugin fails, with what it said.
    pub(super) fn del(&self, id: &str, netns: &Path, result: &Value) -> Result<()> {
        for plugin in self.plugins.iter().rev() {
            self.invoke("DEL", plugin, (id, netns), result)?;
        }
        Ok(())
    }

    fn invoke(
        &self,
        verb: &str,
        (program, config): &(PathBuf, Value),
        (id, netns): (&str, &Path),
        previous: &Value,
    ) -> Result<Vec<u8>> {
        let mut config = config.clone();
        if !previous.is_null() {
            config["prevResult"] = previous.clone();
        }
        let mut child = Command::new(program)
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", id)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", &self.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let mut stdin = child.stdin.take().context("a plugin's standard input")?;
        stdin.write_all(config.to_string().as_bytes()).context("tell a plugin")?;
        drop(stdin);
        let output = child.wait_with_output().context("wait for a plugin")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stdout);
            bail!("{} {verb}: {}: {said}", program.display(), output.status);
        }
        Ok(output.stdout)
    }
}
