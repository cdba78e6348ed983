//! An OCI runtime that is missing, fails, hangs, dies half-way, prints what it should not, leaves
//! a process behind, or names a process that is not its own.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{Bed, busybox};
use berth_testkit::specs::Container;
use cri::ContainerState;
use tonic::Code;

use super::shim::shim_of;
use super::{Runtime, next_pod_is_fine, nothing_left_over, on_a_node_with_runtime, says, works_in};

/// Far less than the minute that a runtime may take.
const SOON: Duration = Duration::from_secs(30);

#[test]
fn a_start_that_the_runtime_fails_is_told_in_its_words_and_leaves_nothing() -> Result<()> {
    on_a_node_with_runtime(async |bed, runtime| {
        let (pod, bystander) = bed.idle("words").await?;
        let other = bed.identity(&bystander).await?;
        let keeper = bed.node.path("/proc/1");
        let sibling = format!("claim {}", other.0);
        let (neighbour, there) = bed.idle("neighbour").await?;
        let stranger = format!("claim {}", bed.pid(&there).await?);
        let cases = [
            ("create", "fail the moon is full", "the moon is full"),
            ("create", "fail-after the moon was full", "the moon was full"),
            ("create", "die", "137"),
            ("create", "die-after", "137"),
            ("create", "garbage", "exit code 1"),
            ("create", "lie", "pid file says"),
            ("create", "claim 1", "names pid 1 as its process"),
            ("create", "claim no number", "pid file says \"no number\""),
            ("create", sibling.as_str(), "is another one's"),
            ("create", stranger.as_str(), "did not start"),
            ("start", "fail no stars", "no stars"),
            ("start", "fail-after no stars", "no stars"),
            ("start", "die", "137"),
            ("start", "garbage", "exit code 1"),
        ];
        for (number, (verb, lever, part)) in cases.into_iter().enumerate() {
            runtime.set(verb, lever)?;
            let container = Container::idle(&format!("c{number}"), &busybox());
            let id = bed.cri.create(&pod, &container).await?;
            let answer = bed.cri.start(&id).await;
            says(answer, Code::Internal, &[part, &format!("crun {verb} {id}")]);
            let status = bed.cri.container(&id).await?;
            assert_eq!(status.state(), ContainerState::ContainerExited, "{lever}");
            assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"), "{lever}");
            runtime.mend(verb)?;
            bed.cri.remove(&id).await?;
            let listed = bed.node.run("ps", &["-e", "-o", "args"])?;
            let idle = listed.lines().filter(|line| line.contains("sleep 1000 & wait")).count();
            assert_eq!(idle, 2, "only the bystanders run after {verb} {lever}: {listed}");
        }
        assert_eq!(bed.identity(&bystander).await?, other, "nobody else's process was touched");
        assert!(keeper.exists());
        assert_eq!(bed.cri.shell(&there, "echo works").await?, "works");
        bed.cri.clear(&neighbour.id).await?;
        works_in(bed, &pod, "fine").await.map(drop)
    })
}

#[test]
fn a_runtime_that_hangs_holds_no_stop_up() -> Result<()> {
    on_a_node_with_runtime(async |bed, runtime| {
        for (number, (verb, lever)) in
            [("create", "hang"), ("create", "hang-after"), ("start", "hang"), ("delete", "hang")]
                .into_iter()
                .enumerate()
        {
            let pod = bed.cri.run(&bed.pod(&format!("hangs{number}"))).await?;
            let container = Container::idle("a", &busybox());
            let id = bed.cri.create(&pod, &container).await?;
            runtime.set(verb, lever)?;
            let begin = Instant::now();
            if verb == "delete" {
                bed.cri.start(&id).await?;
            } else {
                let (cri, id) = (bed.cri.clone(), id.clone());
                let call = tokio::spawn(async move { cri.start(&id).await });
                runtime.hangs(verb).await?;
                bed.cri.stop_pod(&pod.id).await?;
                call.await?.expect_err("it was stopped before it ran");
            }
            bed.cri.clear(&pod.id).await.with_context(|| format!("{verb} {lever}"))?;
            assert!(begin.elapsed() < SOON, "{verb} {lever}: {:?}", begin.elapsed());
            runtime.mend(verb)?;
        }
        // What is left over waits for the runtime that hangs, and is done once that has ended.
        bed.node.run("kill", &["-9", &runtime.hangs("delete").await?])?;
        next_pod_is_fine(bed, "after").await?;
        nothing_left_over(bed).await
    })
}

#[test]
fn a_missing_runtime_is_to_be_installed_and_means_the_end_of_nobody() -> Result<()> {
    on_a_node_with_runtime(async |bed, runtime| {
        let (pod, id) = bed.idle("without").await?;
        let before = bed.identity(&id).await?;
        let created = bed.cri.create(&pod, &Container::idle("later", &busybox())).await?;
        let (program, away) = (runtime.program(), runtime.program().with_extension("away"));
        std::fs::rename(&program, &away)?;
        let named = program.display().to_string();
        says(bed.cri.start(&created).await, Code::Unavailable, &[&named, "install it"]);
        says(bed.cri.exec(&id, &["true"]).await, Code::Unavailable, &[&named, "install it"]);
        std::fs::write(&program, "#!/bin/sh\n")?;
        says(bed.cri.exec(&id, &["true"]).await, Code::Unavailable, &[&named]);
        assert_eq!(bed.identity(&id).await?, before, "what runs goes on");
        // Ending it needs no runtime; what only the runtime can forget is forgotten later.
        bed.cri.stop(&id, 2).await?;
        assert_eq!(bed.cri.container(&id).await?.exit_code, 0);
        std::fs::rename(&away, &program)?;
        bed.cri.remove(&id).await?;
        bed.cri.clear(&pod.id).await?;
        next_pod_is_fine(bed, "with").await?;
        nothing_left_over(bed).await
    })
}

#[test]
fn neither_a_flood_nor_a_stray_process_of_the_runtime_does_harm() -> Result<()> {
    on_a_node_with_runtime(async |bed, runtime| {
        let pod = bed.cri.run(&bed.pod("flood")).await?;
        runtime.set("start", "flood")?;
        runtime.set("create", "leave")?;
        let id = works_in(bed, &pod, "a").await?;
        let memory = shim_memory(bed, &pod.id)?;
        assert!(memory < 16 << 20, "the shim has had {memory} bytes");
        runtime.mend("start")?;
        runtime.mend("create")?;
        bed.cri.stop(&id, 5).await?;
        assert_eq!(bed.cri.container(&id).await?.exit_code, 0);
        bed.cri.clear(&pod.id).await?;
        bed.is_clean()?;
        next_pod_is_fine(bed, "dry").await
    })
}

#[test]
fn a_change_of_limits_that_the_runtime_fails_changes_nothing() -> Result<()> {
    on_a_node_with_runtime(async |bed, runtime: &Runtime| {
        let (_, id) = bed.idle("limits").await?;
        let request = || {
            let linux = cri::LinuxContainerResources { cpu_shares: 77, ..Default::default() };
            berth_testkit::cri::in_time(cri::UpdateContainerResourcesRequest {
                container_id: id.clone(),
                linux: Some(linux),
                ..Default::default()
            })
        };
        let update =
            async || bed.cri.runtime.clone().update_container_resources(request()).await.map(drop);
        for (lever, part) in [("fail too heavy", "too heavy"), ("die", "137"), ("garbage", "1")] {
            runtime.set("update", lever)?;
            says(update().await, Code::Internal, &[part, "crun update"]);
        }
        assert_ne!(shares(bed, &id).await?, Some(77));
        runtime.mend("update")?;
        update().await?;
        assert_eq!(shares(bed, &id).await?, Some(77));
        Ok(())
    })
}

async fn shares(bed: &Bed, id: &str) -> Result<Option<i64>> {
    let status = bed.cri.container(id).await?;
    Ok(status.resources.and_then(|r| r.linux).map(|linux| linux.cpu_shares))
}

/// The most memory that a pod's shim has had, in bytes.
fn shim_memory(bed: &Bed, pod: &str) -> Result<u64> {
    let status = bed.node.path(&format!("/proc/{}/status", shim_of(bed, pod)?));
    let text =
        std::fs::read_to_string(&status).with_context(|| format!("read {}", status.display()))?;
    let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    Ok(peak.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}
