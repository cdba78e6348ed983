//! A bad world around the daemon: runtimes, shims, disks, limits and volumes that fail.
//!
//! Each case checks what the caller is told, that nothing is left, and that the next pod is fine.

mod disk;
mod exec;
mod limits;
mod logs;
mod runtime;
mod shim;
mod volume;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use berth_testkit::bed::{Bed, busybox, eventually, on_a_node_with};
use berth_testkit::config::Config;
use berth_testkit::cri::{Answer, RunningPod};
use berth_testkit::specs::Container;
use tonic::{Code, Status};

/// Where the levers of the stand-in runtime are; see `berth_testkit::runtime`.
struct Runtime {
    dir: tempfile::TempDir,
}

impl Runtime {
    /// From now on this verb goes wrong in this way.
    fn set(&self, verb: &str, lever: &str) -> Result<()> {
        fs::write(self.dir.path().join(verb), lever).context("set a lever")
    }

    /// From now on this verb works.
    fn mend(&self, verb: &str) -> Result<()> {
        fs::remove_file(self.dir.path().join(verb)).context("mend the runtime")
    }

    /// The program that the shim runs.
    fn program(&self) -> PathBuf {
        self.dir.path().join("bin/crun")
    }

    /// Waits until a verb hangs; the pid of whoever does, inside the node.
    async fn hangs(&self, verb: &str) -> Result<String> {
        let file = self.dir.path().join(format!("{verb}.hangs"));
        let what = || format!("the runtime does not come to {verb}");
        let pid = eventually(what, async || Ok(fs::read_to_string(&file).ok())).await?;
        fs::remove_file(&file)?;
        Ok(pid)
    }
}

/// Runs a test on a node whose OCI runtime is the stand-in over crun.
fn on_a_node_with_runtime(test: impl AsyncFnOnce(&mut Bed, &Runtime) -> Result<()>) -> Result<()> {
    on_a_node_with_runtime_as(|program| format!("runtime = {program:?}"), test)
}

/// The same, where this tells the handler of its runtime.
fn on_a_node_with_runtime_as(
    told: impl Fn(&Path) -> String,
    test: impl AsyncFnOnce(&mut Bed, &Runtime) -> Result<()>,
) -> Result<()> {
    let runtime = Runtime { dir: tempfile::tempdir()? };
    let (testkit, dir) = (berth_testkit::paths::testkit()?, runtime.dir.path());
    let script = format!(
        "#!/bin/sh\nexec {} runtime {} /usr/bin/crun \"$@\"\n",
        testkit.display(),
        dir.display()
    );
    executable(&runtime.program(), &script)?;
    let handler = format!("[handlers.berth]\n{}\n", told(&runtime.program()));
    let config = Config::default().drop_in("50-runtime.toml", &handler);
    on_a_node_with(config, &["busybox"], async |bed| test(bed, &runtime).await)
}

pub(crate) fn executable(path: &Path, script: &str) -> Result<()> {
    fs::create_dir_all(path.parent().context("a directory")?)?;
    fs::write(path, script)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).context("make it executable")
}

/// What a call that had to fail was told.
#[track_caller]
fn error<T: std::fmt::Debug>(answer: Answer<T>) -> Status {
    answer.expect_err("this call should have failed")
}

/// The call failed with this code and says each of these.
#[track_caller]
fn says<T: std::fmt::Debug>(answer: Answer<T>, code: Code, parts: &[&str]) {
    let status = error(answer);
    assert_eq!(status.code(), code, "{status}");
    for part in parts {
        assert!(status.message().contains(part), "no {part:?} in {status}");
    }
}

/// A new container of the pod works.
async fn works_in(bed: &Bed, pod: &RunningPod, name: &str) -> Result<String> {
    let id = bed.cri.launch(pod, &Container::idle(name, &busybox())).await?;
    assert_eq!(bed.cri.shell(&id, "echo works").await?, "works");
    Ok(id)
}

/// A new pod works, and goes.
async fn next_pod_is_fine(bed: &Bed, name: &str) -> Result<()> {
    let pod = bed.cri.run(&bed.pod(name)).await?;
    works_in(bed, &pod, "main").await?;
    Ok(bed.cri.clear(&pod.id).await?)
}

/// No release is left over; one is tried again after 1, 2, 4 … seconds.
async fn nothing_left_over(bed: &Bed) -> Result<()> {
    eventually(
        || "something stays left over".to_owned(),
        async || Ok(bed.berth(&["status"])?.contains("leftovers     0").then_some(())),
    )
    .await
}
