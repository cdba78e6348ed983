//! A real kubelet on a node of Berth's: every shape of pod, each looked at from inside and through
//! the kubelet's own API. The kubelet is brought by whoever runs this; the API server that gives it
//! its pods is a stand-in.

mod client;
mod defaults;
mod path;
mod process;
mod serve;
mod shapes;
mod store;
mod world;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt as _;

use crate::bed::Bed;
use crate::config::Config;
use shapes::{ALL, Shape, upheavals};
use world::World;

/// The images of the manifests.
const IMAGES: [&str; 3] = ["busybox", "web", "content"];
/// How many shapes are looked at side by side: two CPUs are enough for so many.
const SIDE_BY_SIDE: usize = 4;

/// What came of a shape.
struct Row {
    name: &'static str,
    manifest: String,
    outcome: Result<String>,
    seconds: f64,
}

/// Runs this kubelet, with these feature gates open, and checks the shapes whose names contain
/// `only`; prints a table. Gives whether none failed.
///
/// # Errors
/// If the node or the kubelet cannot be had.
pub async fn run(program: &Path, only: &str, gates: &[String]) -> Result<bool> {
    is_known(only)?;
    tell(&process::version(program)?)?;
    let bed = Bed::make(config()?, &IMAGES).await?;
    let mut world = World::make(bed, program, gates).await?;
    world.bed.settle()?;
    tell("the kubelet is ready")?;
    let mut rows: Vec<Row> = futures_util::stream::iter(ALL)
        .filter(|shape| std::future::ready(shape.name.contains(only)))
        .map(|shape| row(&world, shape))
        .buffer_unordered(SIDE_BY_SIDE)
        .collect()
        .await;
    let all = rows.iter().all(|row| row.outcome.is_ok());
    if all {
        rows.push(timed("nothing is left", String::new(), clean(&world)).await);
    }
    for upheaval in upheavals() {
        if only.is_empty() || upheavals().iter().any(|own| own.name.contains(only)) {
            let act = (upheaval.act)(&mut world);
            let row = timed(upheaval.name, "live.yaml".to_owned(), act).await;
            let failed = row.outcome.is_err();
            rows.push(row);
            if failed {
                break;
            }
        }
    }
    finish(&world, &rows)
}

/// Whoever asks for some by a name means some that there are.
fn is_known(only: &str) -> Result<()> {
    let names = ALL.iter().map(|shape| shape.name);
    let mut names = names.chain(upheavals().map(|upheaval| upheaval.name));
    ensure!(names.any(|name| name.contains(only)), "no shape has {only:?} in its name");
    Ok(())
}

async fn row(world: &World, shape: Shape) -> Row {
    timed(shape.name, format!("{}.yaml", shape.manifest), (shape.check)(world)).await
}

async fn timed(
    name: &'static str,
    manifest: String,
    check: impl Future<Output = Result<String>>,
) -> Row {
    let start = Instant::now();
    let outcome = check.await;
    let row = Row { name, manifest, outcome, seconds: start.elapsed().as_secs_f64() };
    // Whoever waits sees what happens.
    let said = match &row.outcome {
        Ok(seen) => format!("ok      {name}: {seen}"),
        Err(why) => format!("FAILED  {name}: {why:#}"),
    };
    drop(tell(&said));
    row
}

/// Every pod is gone for the runtime too, and so is all that it had.
async fn clean(world: &World) -> Result<String> {
    let empty = async || {
        let (pods, containers) = (world.bed.cri.pods().await?, world.bed.cri.containers().await?);
        Ok((pods.is_empty() && containers.is_empty()).then_some(()))
    };
    world.patiently("pods or containers are still listed", empty).await?;
    world.bed.is_clean()?;
    Ok("the kubelet has removed every sandbox; the leak census is empty".to_owned())
}

/// Prints the table, and keeps the logs if a shape failed.
fn finish(world: &World, rows: &[Row]) -> Result<bool> {
    let failed = rows.iter().filter(|row| row.outcome.is_err()).count();
    let table: String = rows.iter().map(Row::line).collect();
    tell(&format!("\n| shape | manifest | outcome | s |\n|---|---|---|---|\n{table}"))?;
    tell(&format!("{} held, {failed} failed", rows.len() - failed))?;
    let home = crate::paths::cache().join("kubelet");
    fs::create_dir_all(&home).with_context(|| format!("create {}", home.display()))?;
    fs::copy(world.kubelet.log(), home.join("kubelet.log")).context("keep the kubelet's log")?;
    if failed > 0 {
        let kept = world.bed.node.keep_log();
        tell(&format!("logs: {}; the daemon's is {kept}", home.join("kubelet.log").display()))?;
    }
    Ok(failed == 0)
}

impl Row {
    fn line(&self) -> String {
        let manifest = match self.manifest.as_str() {
            "" => String::new(),
            file => format!("`{file}`"),
        };
        let outcome = match &self.outcome {
            Ok(seen) => seen.clone(),
            Err(why) => format!("**failed**: {why:#}").replace('\n', " "),
        };
        format!("| {} | {manifest} | {outcome} | {:.0} |\n", self.name, self.seconds)
    }
}

/// A second handler, for the pod that names one.
fn config() -> Result<Config> {
    let shim = crate::paths::small()?.join("containerd-shim-berth-v1");
    let handler = format!("[handlers.runc]\nshim = {shim:?}\nruntime = \"runc\"\n");
    Ok(Config::default().drop_in("60-handlers.toml", &handler))
}

fn tell(text: &str) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{text}").context("write to standard output")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_no_shape_has_is_refused() {
        for name in ["", "sysctls", "a reboot"] {
            is_known(name).unwrap();
        }
        let why = is_known("sysctlz").unwrap_err().to_string();
        assert!(why.contains("no shape has \"sysctlz\""), "{why}");
    }
}
