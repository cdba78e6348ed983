//! The demo: a node that runs real pods, loses its daemon under load, and gives everything back.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use berth_proto::cri::v1 as cri;

use crate::bed::{Bed, reference};
use crate::cri::{RunningPod, in_time};
use crate::kinds::{self, Kind};
use crate::specs::Container;

/// Writes every number once, 100,000 of them a second, by the clock: what is due is written, so
/// that a slow machine catches up instead of falling behind.
pub const COUNTER: &str = "trap 'exit 0' TERM; read up _ < /proc/uptime; \
    start=${up%.*}${up#*.}; i=0; while :; do read up _ < /proc/uptime; \
    due=$(( (${up%.*}${up#*.} - start) * 1000 )); \
    if [ $due -gt $i ]; then seq $((i + 1)) $due; i=$due; fi; usleep 5000; done";
/// How long the counter runs before, without and after the daemon.
const PHASE: Duration = Duration::from_secs(2);

/// Runs the demo.
///
/// # Errors
/// If anything is not as the demo says it is.
pub async fn run() -> Result<()> {
    let start = Instant::now();
    say("A node in namespaces of its own; a registry inside it; Berth's daemon.")?;
    let kinds = kinds::all()?;
    let mut bed = Bed::make(kinds::config(&kinds), &["busybox", "web", "wasm"]).await?;
    let outcome = act(&mut bed, &kinds).await;
    if outcome.is_err() {
        let kept = bed.node.keep_log();
        eprintln!("demo: the daemon's log is {kept}; it ends:\n{}", bed.node.log_tail());
    }
    outcome?;
    say(&format!("Everything held. {:.1} s.", start.elapsed().as_secs_f64()))
}

async fn act(bed: &mut Bed, kinds: &[Kind]) -> Result<()> {
    let version = bed.cri.version().await?;
    tell(&format!(
        "{} {} answers CRI {}",
        version.runtime_name, version.runtime_version, version.runtime_api_version
    ))?;
    for image in bed.cri.images().await? {
        let names = image.repo_tags.join(" ");
        tell(&format!("image {}  {names}  {} bytes", &image.id[..19], image.size))?;
    }
    say("Pods of every kind side by side, each by the handler that it names.")?;
    kinds::side_by_side(bed, kinds, tell).await?;
    // The first pod of a handler makes what stays as long as the node: directories, the pause.
    bed.settle()?;
    let (web, side) = web_pod(bed).await?;
    look_inside(bed, &web, &side).await?;
    lose_the_daemon(bed, &web, &side).await?;
    say("Everything is removed, and the node is as it was before the first pod.")?;
    bed.close().await?;
    tell("the leak census is empty: processes, mounts, namespaces, links, addresses, routes,")?;
    tell("packet rules, cgroups, sockets, descriptors, IPAM and state files")
}

/// A pod of two containers that answers another pod.
async fn web_pod(bed: &Bed) -> Result<(RunningPod, String)> {
    say("A pod of two containers, from images pulled from the registry.")?;
    let pod = bed.cri.run(&bed.pod("web")).await?;
    let server = bed.cri.launch(&pod, &Container::new("server", &reference("web"))).await?;
    let line = "echo the side car is here; trap 'exit 0' TERM; \
                while :; do sleep 1000 & wait $!; done";
    let side = Container::new("side", &reference("busybox")).shell(line);
    let side = bed.cri.launch(&pod, &side).await?;
    let ip = bed.cri.pod_status(&pod.id).await?.network.context("the pod's network")?.ip;
    tell(&format!("pod {}  ip {ip}  containers {} {}", &pod.id[..12], &server[..12], &side[..12]))?;
    let (_, client) = bed.idle("client").await?;
    let get = format!("until wget -q -O - http://{ip}/; do usleep 10000; done");
    let page = bed.cri.shell(&client, &get).await?;
    if page != "hello from berth" {
        bail!("another pod reads {page:?} from http://{ip}/");
    }
    tell(&format!("another pod: wget http://{ip}/  ->  {page}"))?;
    Ok((pod, side))
}

/// Logs, an exec, figures.
async fn look_inside(bed: &Bed, pod: &RunningPod, side: &str) -> Result<()> {
    say("Its log, an exec, its figures.")?;
    let log = bed.logs("web").join("side.0.log");
    bed.file_says(&log, "the side car is here").await?;
    tell(&format!("log: {}", std::fs::read_to_string(&log)?.trim()))?;
    let said = bed.cri.shell(side, "echo I am $(hostname), user $(id -un), pid $$").await?;
    tell(&format!("exec: {said}"))?;
    let request = in_time(cri::PodSandboxStatsRequest { pod_sandbox_id: pod.id.clone() });
    let answer = bed.cri.runtime.clone().pod_sandbox_stats(request).await?.into_inner();
    let linux = answer.stats.and_then(|stats| stats.linux).context("figures of the pod")?;
    for one in linux.containers {
        let cpu = one.cpu.and_then(|cpu| cpu.usage_core_nano_seconds).unwrap_or_default().value;
        let memory = one.memory.and_then(|memory| memory.working_set_bytes).unwrap_or_default();
        let name = one.attributes.and_then(|own| own.metadata).unwrap_or_default().name;
        let cpu = Duration::from_nanos(cpu);
        tell(&format!("stats: {name}  cpu {cpu:.1?}  working set {} KiB", memory.value >> 10))?;
    }
    Ok(())
}

/// SIGKILL under a container that writes 100,000 numbered lines a second.
async fn lose_the_daemon(bed: &mut Bed, web: &RunningPod, side: &str) -> Result<()> {
    say("A container writes 100,000 numbered lines a second, and the daemon is killed.")?;
    let counter = Container::new("counter", &reference("busybox")).shell(COUNTER);
    let counter = bed.cri.launch(web, &counter).await?;
    let log = bed.logs("web").join("counter.0.log");
    let begun = Instant::now();
    let before = [bed.identity(&counter).await?, bed.identity(side).await?];
    tokio::time::sleep(PHASE).await;
    bed.node.kill_daemon()?;
    let size = log.metadata()?.len();
    tell(&format!("SIGKILL; the log has {size} bytes"))?;
    tokio::time::sleep(PHASE).await;
    let grown = log.metadata()?.len();
    if grown <= size {
        bail!("the log stands still while the daemon is dead");
    }
    tell(&format!("two seconds without a daemon: the log has grown by {} bytes", grown - size))?;
    let return_ = Instant::now();
    bed.start().await?;
    let listed = bed.cri.containers().await?.len();
    tell(&format!("a new daemon lists {listed} containers after {:.0?}", return_.elapsed()))?;
    let after = [bed.identity(&counter).await?, bed.identity(side).await?];
    if before != after {
        bail!("pids and start times changed: {before:?} became {after:?}");
    }
    for (pid, start) in &after {
        tell(&format!("same process: pid {pid}, started at tick {start}"))?;
    }
    tokio::time::sleep(PHASE).await;
    bed.cri.stop(&counter, 10).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let lines = count(&log)?;
    let rate = lines as f64 / seconds;
    tell(&format!(
        "{lines} lines in {seconds:.1} s, {rate:.0} a second: each number once, in order"
    ))?;
    if rate < 80_000.0 {
        bail!("the counter was to write 100,000 lines a second");
    }
    Ok(())
}

/// Reads a log in CRI's format and demands 1, 2, 3, ... without a gap; returns the last number.
///
/// # Errors
/// With the place of the first number that is not the next.
pub fn count(log: &Path) -> Result<u64> {
    let file = File::open(log).with_context(|| format!("open {}", log.display()))?;
    let (mut last, mut text) = (0u64, String::new());
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line?;
        let mut fields = line.splitn(4, ' ').skip(2);
        let (part, rest) = (fields.next().unwrap_or(""), fields.next().unwrap_or(""));
        text.push_str(rest);
        if part == "P" {
            continue;
        }
        if text.parse() != Ok(last + 1) {
            bail!("line {} of the log is {line:?}, after the number {last}", number + 1);
        }
        last += 1;
        text.clear();
    }
    Ok(last)
}

/// A headline.
fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n== {text}").context("write to standard output")
}

/// A fact.
fn tell(text: &str) -> Result<()> {
    writeln!(std::io::stdout().lock(), "   {text}").context("write to standard output")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counting_finds_a_gap_a_repetition_and_joins_cut_lines() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let count_of = |text: &str| {
            std::fs::write(&log, text).unwrap();
            count(&log)
        };
        let line = |tag: &str, text: &str| format!("2026-01-01T00:00:00.0Z stdout {tag} {text}\n");
        let good = line("F", "1") + &line("F", "2") + &line("P", "") + &line("F", "3");
        assert_eq!(count_of(&good).unwrap(), 3);
        assert!(count_of(&(line("F", "1") + &line("F", "3"))).is_err());
        assert!(count_of(&(line("F", "1") + &line("F", "1"))).is_err());
    }
}
