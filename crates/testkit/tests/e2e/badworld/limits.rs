//! Limits that are reached: descriptors, processes, memory.

use std::os::unix::net::UnixStream;

use anyhow::{Context as _, Result};
use berth_testkit::bed::{busybox, eventually, on_a_node};
use berth_testkit::cri::Cri;
use berth_testkit::specs::Container;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tonic::Code;

use super::{next_pod_is_fine, says};

#[test]
fn without_descriptors_the_daemon_waits_and_serves_on() -> Result<()> {
    on_a_node(async |bed| {
        let (_, id) = bed.idle("few").await?;
        let daemon = bed.node.daemon().context("a daemon")?;
        let open = std::fs::read_dir(format!("/proc/{daemon}/fd"))?.count() as u64;
        let pid = Pid::from_raw(i32::try_from(daemon)?);
        let maximum = hard_limit(daemon)?;
        let few = Rlimit { current: Some(open + 4), maximum: Some(maximum) };
        let before = prlimit(pid, Resource::Nofile, few)?;
        // More callers than it may accept: the rest stay in the socket's queue.
        let callers: Vec<_> =
            (0..20).map(|_| UnixStream::connect(bed.node.socket())).collect::<Result<_, _>>()?;
        bed.file_says(&bed.node.log(), "cannot accept a connection").await?;
        assert_eq!(bed.cri.containers().await?.len(), 1, "who is connected is served");
        says(bed.cri.run(&bed.pod("none")).await, Code::ResourceExhausted, &[]);
        drop(callers);
        prlimit(pid, Resource::Nofile, before)?;
        let socket = bed.node.socket();
        eventually(
            || "nobody new is served".to_owned(),
            async || Ok(Cri::answers(&socket).then_some(())),
        )
        .await?;
        assert_eq!(bed.cri.shell(&id, "echo works").await?, "works");
        next_pod_is_fine(bed, "none").await
    })
}

#[test]
fn without_processes_a_pod_fails_as_exhausted_and_the_next_is_fine() -> Result<()> {
    on_a_node(async |bed| {
        let (pod, id) = bed.idle("bred").await?;
        let untouched = bed.identity(&id).await?;
        let shims = bed.node.parent().dir("pids").join("berth/shims");
        // The shims that live are counted, and no other may come.
        let now = std::fs::read_to_string(shims.join("pids.current"))?;
        std::fs::write(shims.join("pids.max"), now.trim())?;
        says(bed.cri.run(&bed.pod("one-too-many")).await, Code::ResourceExhausted, &[]);
        let more = bed.cri.create(&pod, &Container::idle("more", &busybox())).await?;
        says(bed.cri.start(&more).await, Code::ResourceExhausted, &[]);
        says(bed.cri.exec(&id, &["true"]).await, Code::ResourceExhausted, &[]);
        bed.cri.remove(&more).await?;
        std::fs::write(shims.join("pids.max"), "max")?;
        assert_eq!(bed.identity(&id).await?, untouched);
        assert_eq!(bed.cri.shell(&id, "echo works").await?, "works");
        next_pod_is_fine(bed, "one-too-many").await
    })
}

#[test]
fn a_container_without_memory_is_killed_and_said_to_be() -> Result<()> {
    on_a_node(async |bed| {
        let pod = bed.cri.run(&bed.pod("hungry")).await?;
        let hungry = Container::new("a", &busybox())
            .shell("head -c 200m /dev/zero | tail | wc -c; exit 137")
            .resources(|resources| resources.memory_limit_in_bytes = 24 << 20);
        let id = bed.cri.launch(&pod, &hungry).await?;
        let status = bed.cri.exited(&id).await?;
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
        next_pod_is_fine(bed, "fed").await
    })
}

/// How many descriptors a process may allow itself.
fn hard_limit(pid: u32) -> Result<u64> {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    let words: Vec<_> = line.context("a line of open files")?.split_whitespace().collect();
    Ok(words.get(4).context("a hard limit")?.parse()?)
}
