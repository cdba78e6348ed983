//! Storms: many calls at once, calls that contradict each other, programs that misbehave. Nothing
//! hangs, nothing is done twice, nothing stays, and lists wait for nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{Bed, busybox, eventually, on_a_node};
use berth_testkit::config::Config;
use berth_testkit::cri::{Cri, refused};
use berth_testkit::specs::{Container, Pod};
use tokio::task::JoinSet;
use tonic::Code;

use crate::standin::{Plugin, on_a_node_with_plugin};

/// A list takes milliseconds; this is for a machine that does much else.
const LIST: Duration = Duration::from_secs(5);

/// Somebody who lists again and again, as the kubelet does, while something else goes on.
struct Lister {
    end: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Result<Duration>>,
}

impl Lister {
    fn start(cri: &Cri) -> Self {
        let end = Arc::<AtomicBool>::default();
        let (over, cri) = (Arc::clone(&end), cri.clone());
        let task = tokio::spawn(async move {
            let mut slowest = Duration::ZERO;
            while !over.load(Ordering::Acquire) {
                let begin = Instant::now();
                cri.pods().await?;
                cri.containers().await?;
                slowest = slowest.max(begin.elapsed());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Ok(slowest)
        });
        Self { end, task }
    }

    /// No list took long.
    async fn end(self) -> Result<()> {
        self.end.store(true, Ordering::Release);
        let slowest = self.task.await??;
        ensure!(slowest < LIST, "two lists took {slowest:?}");
        Ok(())
    }
}

/// What a daemon uses: threads, descriptors, KiB of memory.
fn used(bed: &Bed) -> Result<(usize, usize, u64)> {
    let pid = bed.node.daemon().context("a daemon")?;
    let count = |what: &str| anyhow::Ok(std::fs::read_dir(format!("/proc/{pid}/{what}"))?.count());
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let memory = line.and_then(|text| text.split_whitespace().next()?.parse().ok());
    Ok((count("task")?, count("fd")?, memory.context("VmRSS")?))
}

/// Waits until the daemon has no more threads and descriptors than before, and a bounded part more
/// of memory.
async fn no_more_than(bed: &Bed, before: (usize, usize, u64)) -> Result<()> {
    let what = || format!("the daemon used {before:?} and uses {:?}", used(bed));
    // Threads for blocking work, at most 16 here, end ten seconds after their last work.
    let enough = |(threads, descriptors, memory): (usize, usize, u64)| {
        threads <= before.0 + 16 && descriptors <= before.1 + 4 && memory <= before.2 + 24 * 1024
    };
    eventually(what, async || Ok(Some(used(bed)?).filter(|now| enough(*now)))).await.map(drop)
}

#[test]
fn callers_that_give_up_leave_one_pod_to_the_one_who_stays() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        for round in 0..4u64 {
            let pod = bed.pod(&format!("given-up-{round}"));
            for turn in 0..6 {
                let patience = Duration::from_millis((round * 37 + turn * 23) % 120);
                let _ = tokio::time::timeout(patience, cri.run(&pod)).await;
            }
            let mut ids = JoinSet::new();
            for _ in 0..3 {
                let (cri, pod) = (cri.clone(), pod.clone());
                ids.spawn(async move { cri.run(&pod).await.map(|pod| pod.id) });
            }
            let ids: Vec<_> = ids.join_all().await.into_iter().collect::<Result<_, _>>()?;
            ensure!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
            let listed = cri.pods().await?;
            ensure!(listed.len() == 1 && listed[0].id == ids[0], "{listed:?}");
            cri.clear(&ids[0]).await?;
            ensure!(cri.pods().await?.is_empty());
        }
        bed.is_clean()
    })
}

#[test]
fn the_next_attempt_does_not_wait_for_the_roll_back_of_the_one_before() -> Result<()> {
    on_a_node_with_plugin(Config::default(), async |bed, plugin: &Plugin| {
        plugin.fail("ADD", "not today")?;
        plugin.block("DEL")?;
        let pod = bed.pod("again");
        let (cri, first) = (bed.cri.clone(), pod.clone());
        let first = tokio::spawn(async move { cri.run(&first).await });
        plugin.called("DEL").await?;
        plugin.mend("ADD")?;
        let next = bed.cri.run(&pod.clone().attempt(1)).await?;
        let listed = bed.cri.pods().await?;
        ensure!(listed.len() == 1 && listed[0].id == next.id, "{listed:?}");
        plugin.release("DEL")?;
        let error = first.await?.expect_err("its network could not be had");
        ensure!(error.message().contains("not today"), "{error}");
        // And its own name is free again.
        let again = bed.cri.run(&pod).await?;
        ensure!(again.id != next.id);
        Ok(())
    })
}

#[test]
fn a_pod_that_is_being_removed_keeps_its_name_through_a_restart() -> Result<()> {
    on_a_node_with_plugin(Config::default(), async |bed, plugin: &Plugin| {
        let pod = bed.pod("leaving");
        let old = bed.cri.run(&pod).await?.id;
        plugin.block("DEL")?;
        let (cri, leaving) = (bed.cri.clone(), old.clone());
        let remove = tokio::spawn(async move { cri.remove_pod(&leaving).await });
        plugin.called("DEL").await?;
        bed.node.kill_daemon()?;
        drop(remove.await?);
        bed.start().await?;
        let listed = bed.cri.pods().await?;
        ensure!(listed.len() == 1 && listed[0].id == old, "the first list: {listed:?}");
        let (cri, again) = (bed.cri.clone(), pod.clone());
        let second = tokio::spawn(async move { cri.run(&again).await });
        plugin.release("DEL")?;
        // Refused while the old one has the name, or made after it; never beside it.
        let second = second.await?;
        if let Err(status) = &second {
            ensure!(status.code() == Code::FailedPrecondition, "{status:?}");
        }
        bed.cri.remove_pod(&old).await?;
        let new = bed.cri.run(&pod).await?.id;
        ensure!(new != old && second.map_or(true, |pod| pod.id == new));
        ensure!(bed.cri.pods().await?.len() == 1);
        Ok(())
    })
}

#[test]
fn creations_and_starts_that_race_with_stop_and_remove_all_answer_and_leave_nothing() -> Result<()>
{
    on_a_node(async |bed| {
        let cri = &bed.cri;
        for round in 0..8u64 {
            let name = format!("race-{round}");
            let pod = cri.run(&bed.pod(&name)).await?;
            let mine = cri.create(&pod, &Container::idle("a", &busybox())).await?;
            let removes = round % 2 == 0;
            let (ending, starting, creating) = tokio::join!(
                async {
                    tokio::time::sleep(Duration::from_millis(round * 5)).await;
                    match removes {
                        true => cri.remove_pod(&pod.id).await,
                        false => cri.stop_pod(&pod.id).await,
                    }
                },
                cri.start(&mine),
                async {
                    let id = cri.create(&pod, &Container::idle("b", &busybox())).await?;
                    tokio::join!(cri.start(&id), cri.remove(&id)).1.map(|()| id)
                },
            );
            ending?;
            for lost in [starting.err(), creating.err()].into_iter().flatten() {
                let over = [Code::FailedPrecondition, Code::NotFound, Code::Cancelled];
                ensure!(over.contains(&lost.code()), "round {round}: {lost:?}");
            }
            let running = cri::ContainerState::ContainerRunning;
            ensure!(cri.containers().await?.iter().all(|one| one.state() != running));
            cri.clear(&pod.id).await?;
        }
        bed.is_clean()
    })
}

/// Runs pods with a short job each, so many at a time, and says how long each took at most.
async fn jobs(bed: &Bed, count: usize, at_once: usize) -> Result<()> {
    let mut running = JoinSet::new();
    for number in 0..count {
        if running.len() >= at_once
            && let Some(done) = running.join_next().await
        {
            done??;
        }
        let (cri, pod) = (bed.cri.clone(), bed.pod(&format!("job-{number}")));
        running.spawn(async move { job(&cri, &pod).await });
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    Ok(())
}

async fn job(cri: &Cri, pod: &Pod) -> Result<()> {
    let running = cri.run(pod).await?;
    let id = cri.launch(&running, &Container::new("a", &busybox()).shell("echo done")).await?;
    let status = cri.exited(&id).await?;
    ensure!((status.exit_code, status.reason.as_str()) == (0, "Completed"), "{status:?}");
    cri.clear(&running.id).await.map_err(Into::into)
}

#[test]
fn a_burst_of_jobs_leaves_the_daemon_as_it_was() -> Result<()> {
    on_a_node(async |bed| {
        jobs(bed, 4, 4).await?;
        let before = used(bed)?;
        let lister = Lister::start(&bed.cri);
        jobs(bed, 24, 4).await?;
        lister.end().await?;
        no_more_than(bed, before).await?;
        bed.is_clean()
    })
}

#[test]
fn long_a_thousand_jobs_leave_the_daemon_as_it_was() -> Result<()> {
    on_a_node(async |bed| {
        jobs(bed, 100, 6).await?;
        let before = used(bed)?;
        let lister = Lister::start(&bed.cri);
        jobs(bed, 1000, 6).await?;
        lister.end().await?;
        no_more_than(bed, before).await?;
        bed.is_clean()
    })
}

#[test]
fn hundreds_of_probes_leave_no_process_and_no_descriptor() -> Result<()> {
    on_a_node(async |bed| {
        let mut containers = Vec::new();
        for number in 0..4 {
            containers.push(bed.idle(&format!("probed-{number}")).await?.1);
        }
        let probe = async |cri: &Cri, id: &str| cri.shell(id, "echo well").await;
        probe(&bed.cri, &containers[0]).await?;
        let before = used(bed)?;
        let lister = Lister::start(&bed.cri);
        let mut probes = JoinSet::new();
        // A hundred a second, whether those before have answered or not.
        for turn in 0..300 {
            let (cri, id) = (bed.cri.clone(), containers[turn % containers.len()].clone());
            probes.spawn(async move {
                if turn % 10 == 9 {
                    // A probe that nobody waits for takes what it has started with it.
                    let line = ["sh", "-c", "sleep 4800 & sleep 4801"];
                    let wait = Duration::from_millis(50);
                    drop(tokio::time::timeout(wait, cri.exec(&id, &line)).await);
                    return Ok(());
                }
                let said = probe(&cri, &id).await?;
                ensure!(said == "well", "{said}");
                Ok(())
            });
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for done in probes.join_all().await {
            done?;
        }
        lister.end().await?;
        let left = || "a given-up probe's commands still run".to_owned();
        eventually(left, async || {
            Ok(Some(bed.node.run("ps", &["-e", "-o", "args"])?)
                .filter(|all| !all.contains("sleep 480")))
        })
        .await?;
        no_more_than(bed, before).await
    })
}

#[test]
fn floods_of_logs_disturb_nobody_and_are_whole() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let (_, calm) = bed.idle("calm").await?;
        let mut floods = Vec::new();
        let lister = Lister::start(cri);
        for name in ["flood-a", "flood-b"] {
            let pod = cri.run(&bed.pod(name)).await?;
            let line = "seq 1 1000000; echo the end";
            floods.push((
                name,
                cri.launch(&pod, &Container::new("a", &busybox()).shell(line)).await?,
            ));
        }
        for _ in 0..5 {
            let begin = Instant::now();
            ensure!(cri.shell(&calm, "echo calm").await? == "calm");
            ensure!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
        }
        for (name, id) in floods {
            let status = tokio::time::timeout(Duration::from_secs(60), cri.exited(&id)).await??;
            ensure!(status.exit_code == 0, "{status:?}");
            let log = bed.log(name)?;
            let lines = log.lines().count();
            ensure!(lines == 1_000_001 && log.trim_end().ends_with("the end"), "{lines} lines");
        }
        lister.end().await
    })
}

#[test]
fn a_container_that_forks_to_its_limit_ends_and_its_pod_goes() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let path = bed.node.parent().make("kube/forks")?;
        let limit = bed.node.parent().dir("pids").join("kube/forks/pids.max");
        std::fs::write(&limit, "40").with_context(|| format!("write {}", limit.display()))?;
        let pod = cri.run(&bed.pod("forks").cgroup_parent(&path)).await?;
        let line = "echo begins; while :; do sleep 4900 & done";
        let id = cri.launch(&pod, &Container::new("a", &busybox()).shell(line)).await?;
        // busybox' shell ends with 2 when it cannot fork.
        let status = cri.exited(&id).await?;
        ensure!(status.exit_code != 0, "{status:?}");
        let left = bed.node.run("ps", &["-e", "-o", "args"])?;
        ensure!(!left.contains("sleep 4900"), "{left}");
        ensure!(bed.log("forks")?.contains("begins"));
        // The pod is as good as before.
        let next = cri.launch(&pod, &Container::idle("b", &busybox())).await?;
        ensure!(cri.shell(&next, "echo works").await? == "works");
        cri.clear(&pod.id).await?;
        bed.node.parent().unmake("kube/forks")?;
        Ok(())
    })
}

#[test]
fn a_grandchild_that_holds_the_pipe_does_not_hold_back_the_exit() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        for (name, pod) in [("own", bed.pod("own")), ("shared", bed.pod("shared").shared_pid())] {
            let pod = cri.run(&pod).await?;
            let line = "setsid sleep 4950 & seq 1 20000; echo the end; exit 5";
            let begin = Instant::now();
            let id = cri.launch(&pod, &Container::new("a", &busybox()).shell(line)).await?;
            let status = cri.exited(&id).await?;
            ensure!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
            ensure!(status.exit_code == 5, "{status:?}");
            let log = bed.log(name)?;
            ensure!(log.lines().count() == 20_001 && log.trim_end().ends_with("the end"), "{log}");
            let left = bed.node.run("ps", &["-e", "-o", "args"])?;
            ensure!(!left.contains("sleep 4950"), "{left}");
        }
        Ok(())
    })
}

#[test]
fn removing_what_is_being_started_leaves_nothing() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("brief")).await?;
        for turn in 0..8u64 {
            let container = Container::idle(&format!("c{turn}"), &busybox());
            let id = cri.create(&pod, &container).await?;
            let (started, removed) = tokio::join!(cri.start(&id), async {
                tokio::time::sleep(Duration::from_millis(turn * 8)).await;
                cri.remove(&id).await
            });
            removed?;
            if let Err(lost) = started {
                let over = [Code::FailedPrecondition, Code::NotFound, Code::Cancelled];
                ensure!(over.contains(&lost.code()), "turn {turn}: {lost:?}");
            }
            ensure!(refused(cri.container(&id).await) == Code::NotFound);
        }
        ensure!(cri.containers().await?.is_empty());
        cri.clear(&pod.id).await?;
        bed.is_clean()
    })
}
