//! A node whose chain of CNI plugins ends with the testkit's stand-in, and the levers to it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use berth_testkit::bed::{Bed, eventually, on_a_node_with};
use berth_testkit::config::Config;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

/// The stand-in's directory.
pub(crate) struct Plugin {
    dir: PathBuf,
}

/// Runs a test on such a node, with the image `busybox`.
pub(crate) fn on_a_node_with_plugin(
    config: Config,
    test: impl AsyncFnOnce(&mut Bed, &Plugin) -> Result<()>,
) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let program = berth_testkit::paths::testkit()?;
    let script = dir.path().join("bin/stand-in");
    fs::create_dir_all(dir.path().join("bin"))?;
    fs::write(&script, format!("#!/bin/sh\nexec {} plugin\n", program.display()))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let plugin = Plugin { dir: dir.path().to_owned() };
    let config = config.stand_in(&plugin.dir, &dir.path().join("bin"));
    on_a_node_with(config, &["busybox"], async |bed| {
        // The warm-up of the node's network called it too.
        plugin.forget()?;
        let outcome = test(bed, &plugin).await;
        plugin.clear()?;
        outcome
    })
}

impl Plugin {
    /// From now on this verb fails with a message.
    pub(crate) fn fail(&self, verb: &str, message: &str) -> Result<()> {
        fs::write(self.file(verb, "fail"), message).context("make the plugin fail")
    }

    /// From now on this verb succeeds again.
    pub(crate) fn mend(&self, verb: &str) -> Result<()> {
        fs::remove_file(self.file(verb, "fail")).context("mend the plugin")
    }

    /// From now on this verb of a pod is this shell script.
    pub(crate) fn script(&self, verb: &str, pod: &str, script: &str) -> Result<()> {
        fs::write(self.file(verb, &format!("{pod}.sh")), script).context("write a script")
    }

    /// No pod has a script any more.
    pub(crate) fn unscripted(&self) -> Result<()> {
        for entry in fs::read_dir(&self.dir)?.flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "sh") {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// The plugin's executable.
    pub(crate) fn program(&self) -> PathBuf {
        self.dir.join("bin/stand-in")
    }

    /// From now on this verb waits.
    pub(crate) fn block(&self, verb: &str) -> Result<()> {
        let mode = Mode::RUSR | Mode::WUSR;
        mknodat(CWD, self.file(verb, "block"), FileType::Fifo, mode, 0).context("make a fifo")
    }

    /// Lets go whoever waits, and nobody waits any more.
    pub(crate) fn release(&self, verb: &str) -> Result<()> {
        let gate = self.file(verb, "block");
        // Opening for reading too never waits, and lets the reader's open return.
        let open = rustix::fs::open(&gate, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        fs::remove_file(&gate)?;
        drop(open);
        Ok(())
    }

    /// The calls of a verb so far.
    pub(crate) fn calls(&self, verb: &str) -> Result<Vec<String>> {
        let calls = fs::read_to_string(self.dir.join("calls")).unwrap_or_default();
        let own = |line: &&str| line.split(' ').next() == Some(verb);
        Ok(calls.lines().filter(own).map(str::to_owned).collect())
    }

    /// Waits for the first call of a verb.
    pub(crate) async fn called(&self, verb: &str) -> Result<()> {
        eventually(|| format!("no {verb}"), async || Ok(self.calls(verb)?.first().map(|_| ())))
            .await
    }

    /// Forgets the calls so far.
    pub(crate) fn forget(&self) -> Result<()> {
        let calls = self.dir.join("calls");
        if calls.exists() { fs::remove_file(calls).context("forget the calls") } else { Ok(()) }
    }

    fn clear(&self) -> Result<()> {
        for entry in fs::read_dir(&self.dir)?.flatten() {
            let path = entry.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("fail" | "sh") => fs::remove_file(&path)?,
                Some("block") => {
                    let verb = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                    self.release(&verb)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn file(&self, verb: &str, what: &str) -> PathBuf {
        Path::new(&self.dir).join(format!("{verb}.{what}"))
    }
}
