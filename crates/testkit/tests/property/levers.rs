//! Faults on order: a CNI plugin and an OCI runtime that fail, are slow or are killed, each time
//! for one named pod or container, so that what a fault may excuse is known exactly.
//!
//! Both are scripts before the real ones. A lever is a file `WHO.VERB` that holds the fault; it
//! is used once, and is then called `WHO.VERB.used`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use berth_testkit::config::Config;
use tempfile::TempDir;

/// What the scripts share: the fault of this call, if there is one.
const TAKE: &str = r#"
fault=
if [ -e "$lever" ] && mv "$lever" "$lever.used" 2>/dev/null; then
    read -r fault wait <"$lever.used"
fi
"#;

const RUNTIME: &str = r#"
for id; do :; done
verb=$7
lever=$dir/$id.$verb
"#;

const RUNTIME_ACTS: &str = r#"
case $fault in
fail) echo '{"level":"error","msg":"a fault on order"}' >>"$6"; exit 1 ;;
slow) sleep "$wait" ;;
late) "$real" "$@"; echo '{"level":"error","msg":"a late fault on order"}' >>"$6"; exit 1 ;;
die) "$real" "$@" <&0 & child=$!; sleep "$wait"; kill -9 $child; kill -9 $$ ;;
esac
exec "$real" "$@"
"#;

const PLUGIN: &str = r#"
name=${CNI_ARGS#*K8S_POD_NAME=}
lever=$dir/${name%%;*}.$CNI_COMMAND
"#;

const PLUGIN_ACTS: &str = r#"
case $fault in
fail) cat >/dev/null; echo '{"cniVersion":"1.0.0","code":999,"msg":"a fault on order"}'; exit 1 ;;
slow) sleep "$wait" ;;
garbage) cat >/dev/null; echo 'no JSON at all'; exit 0 ;;
die) sleep "$wait"; kill -9 $$ ;;
esac
exec "$real" plugin
"#;

/// The faults of an OCI runtime's call.
pub(crate) const OF_RUNTIME: [&str; 6] =
    ["fail", "slow 0.2", "late", "die 0.003", "die 0.02", "slow 1"];
/// The faults of a plugin's call.
pub(crate) const OF_PLUGIN: [&str; 5] = ["fail", "slow 0.3", "garbage", "die 0.01", "slow 1.5"];

/// The directory of scripts and levers.
pub(crate) struct Levers {
    dir: TempDir,
}

impl Levers {
    /// Writes the scripts.
    pub(crate) fn make() -> Result<Self> {
        let levers = Self { dir: tempfile::tempdir()? };
        let testkit = berth_testkit::paths::testkit()?;
        fs::create_dir(levers.path().join("bin"))?;
        levers.script("bin/stand-in", &testkit, &[PLUGIN, TAKE, PLUGIN_ACTS])?;
        let crun = ["/usr/bin/crun", "/usr/local/bin/crun"].map(PathBuf::from);
        let crun = crun.into_iter().find(|path| path.exists()).context("crun is not installed")?;
        // Named as the real one: the shim knows a runtime's peculiarities by its file name.
        levers.script("bin/crun", &crun, &[RUNTIME, TAKE, RUNTIME_ACTS])?;
        Ok(levers)
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn script(&self, name: &str, real: &Path, parts: &[&str]) -> Result<()> {
        let path = self.path().join(name);
        let head = format!("#!/bin/sh\ndir={}\nreal={}", self.path().display(), real.display());
        fs::write(&path, format!("{head}{}", parts.concat()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context("make it executable")
    }

    /// A node whose CNI chain ends with the plugin, and whose containers run by the runtime.
    pub(crate) fn config(&self) -> Config {
        let runtime = self.path().join("bin/crun");
        let text = format!("[handlers.berth]\nruntime = {runtime:?}\n");
        let config = Config::default().drop_in("50-runtime.toml", &text);
        config.stand_in(self.path(), &self.path().join("bin"))
    }

    /// The next such call of this pod (by name) or container (by id) meets this fault.
    pub(crate) fn arm(&self, who: &str, verb: &str, fault: &str) -> Result<Armed> {
        let path = self.path().join(format!("{who}.{verb}"));
        let new = self.path().join(format!("{who}.{verb}.new"));
        fs::write(&new, format!("{fault}\n"))?;
        fs::rename(&new, &path).context("arm a lever")?;
        Ok(Armed { path })
    }
}

/// A lever that is armed until it is used or dropped.
pub(crate) struct Armed {
    path: PathBuf,
}

impl Armed {
    /// Whether a call has met the fault.
    pub(crate) fn used(&self) -> bool {
        self.path.with_file_name(self.used_name()).exists()
    }

    fn used_name(&self) -> String {
        format!("{}.used", self.path.file_name().unwrap_or_default().to_string_lossy())
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_file(self.path.with_file_name(self.used_name()));
    }
}
