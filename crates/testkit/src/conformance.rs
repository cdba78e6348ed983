//! critest, the conformance suite of the kubelet's side of CRI, against a node: stand-ins for the
//! images that it asks for, a node that takes them for the real ones, and what it says spec by
//! spec. critest itself is brought by whoever runs this.

mod digest;
mod images;
mod outcome;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::bed::Bed;
use crate::config::Config;
use crate::image::samples::Sample;
use crate::node::{Node, REGISTRY_PORT};
use crate::place::Guest;

/// The registries that critest names. All are the node's own here.
const HOSTS: [&str; 4] = ["registry.k8s.io", "k8s.gcr.io", "gcr.io", "public.ecr.aws"];

/// Runs this critest on a node of its own and prints the outcome of each spec; without a critest
/// holds the node and says how one is run against it. `arguments` go to critest after our own.
/// Gives whether no spec failed.
///
/// # Errors
/// If the node cannot be made, critest does not run to its end, or its specs leave something.
pub async fn run(critest: Option<&Path>, arguments: &[String]) -> Result<bool> {
    let mut bed = Bed::make(config()?, &[]).await?;
    let push = bed.node.registry()?.push();
    let images = images::all()?;
    for sample in &images {
        let pushed = bed.node.place()?.visit(|| push.sample(sample));
        pushed.with_context(|| format!("push {}", sample.name))?;
    }
    let Some(critest) = critest else {
        tell(&how(&bed.node))?;
        crate::play::until_enter().await?;
        bed.close().await?;
        return Ok(true);
    };
    let outcome = match copy(critest, &images) {
        Ok(critest) => judge(&bed.node, &critest, arguments).await,
        Err(error) => Err(error),
    };
    let closed = match &outcome {
        Ok(_) => close(&mut bed).await,
        Err(_) => Ok(()),
    };
    if !matches!((&outcome, &closed), (Ok(0), Ok(()))) {
        eprintln!("conformance: the daemon's log is {}", bed.node.keep_log());
    }
    closed.context("after critest")?;
    outcome.map(|failed| failed == 0)
}

/// Demands that the specs have left nothing.
async fn close(bed: &mut Bed) -> Result<()> {
    let (pods, containers) = (bed.cri.pods().await?.len(), bed.cri.containers().await?.len());
    tell(&format!("critest has left {pods} pods and {containers} containers"))?;
    for image in bed.cri.images().await? {
        bed.cri.remove_image(&image.id).await?;
    }
    bed.close().await
}

/// Mirrors for every host, none of which is asked itself, and a handler for each OCI runtime that
/// `-runtime-handler` may name, by the shim that the node's own handler has.
fn config() -> Result<Config> {
    let hosts = format!("server = \"http://127.0.0.1:{REGISTRY_PORT}\"\n");
    let shim = crate::paths::small()?.join("containerd-shim-berth-v1");
    let handler =
        |runtime| format!("[handlers.{runtime}]\nshim = {shim:?}\nruntime = {runtime:?}\n");
    let handlers = ["crun", "runc"].map(handler).concat();
    let config = Config::default().drop_in("60-handlers.toml", &handlers);
    Ok(HOSTS.iter().fold(config, |config, host| {
        config.file(&format!("berth/certs.d/{host}/hosts.toml"), &hosts)
    }))
}

fn how(node: &Node) -> String {
    let socket = node.config().socket();
    format!(
        "A node runs whose registry has what critest asks for.\n\n\
         its socket:   {}\n\
         critest:      nsenter -t {} -m -n -i -p critest -runtime-endpoint unix://{socket} \
         -image-endpoint unix://{socket}\n\
         its log:      {}\n\n\
         Enter ends it.",
        node.socket().display(),
        node.keeper(),
        node.log().display(),
    )
}

/// critest as it is run: with the digest of a stand-in for the one that it names.
fn copy(critest: &Path, images: &[Sample]) -> Result<PathBuf> {
    let mut program = fs::read(critest).with_context(|| format!("read {}", critest.display()))?;
    let by_digest = images.iter().find(|image| image.name.ends_with("/test-image-digest"));
    digest::stand_in(&mut program, by_digest.context("no stand-in has a digest")?)?;
    let copy = home()?.join("critest");
    // It may be running.
    drop(fs::remove_file(&copy));
    fs::write(&copy, program).with_context(|| format!("write {}", copy.display()))?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    tell("critest's test-image-digest@sha256 is that of the stand-in, in the copy that runs")?;
    Ok(copy)
}

/// Where what critest leaves is kept.
fn home() -> Result<PathBuf> {
    let home = crate::paths::cache().join("conformance");
    fs::create_dir_all(&home).with_context(|| format!("create {}", home.display()))?;
    Ok(home)
}

/// Runs critest and gives how many specs failed.
async fn judge(node: &Node, critest: &Path, arguments: &[String]) -> Result<usize> {
    let home = home()?;
    let report = home.join("report.json");
    // One of another run is not taken for this one's.
    drop(fs::remove_file(&report));
    let scratch = node.disk().join("critest");
    fs::create_dir_all(&scratch).with_context(|| format!("create {}", scratch.display()))?;
    let endpoint = format!("unix://{}", node.config().socket());
    let log = home.join("critest.log");
    let output = fs::File::create(&log).with_context(|| format!("create {}", log.display()))?;
    let mut command = Command::new(critest);
    command
        .args(["-runtime-endpoint", &endpoint, "-image-endpoint", &endpoint])
        .args(["-nri-socket", crate::nri::SOCKET])
        .args(["-ginkgo.no-color", "-ginkgo.json-report"])
        .arg(&report)
        .args(arguments)
        // Its files go with the node.
        .env("TMPDIR", &scratch)
        .current_dir(&scratch)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    tell(&format!("critest runs; what it says is in {}", log.display()))?;
    let mut guest = Guest(node.place()?.visit(|| command.spawn().context("start critest"))?);
    let status = tokio::task::spawn_blocking(move || guest.0.wait()).await??;
    conclude(&report, &home.join("outcome.tsv")).with_context(|| format!("critest: {status}"))
}

/// Writes the table, prints what did not pass and the sums, and gives how many specs failed.
fn conclude(report: &Path, table: &Path) -> Result<usize> {
    let text = fs::read_to_string(report).context("read critest's report")?;
    let specs = outcome::read(&text)?;
    let lines: String = specs.iter().map(|spec| format!("{spec}\n")).collect();
    fs::write(table, lines).with_context(|| format!("write {}", table.display()))?;
    for spec in specs.iter().filter(|spec| spec.state != "passed") {
        tell(&spec.to_string())?;
    }
    let count = |state: &str| specs.iter().filter(|spec| spec.state == state).count();
    let (passed, skipped) = (count("passed"), count("skipped"));
    let failed = specs.len() - passed - skipped;
    tell(&format!("{passed} passed, {failed} failed, {skipped} skipped: {}", table.display()))?;
    Ok(failed)
}

fn tell(text: &str) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{text}").context("write to standard output")
}
