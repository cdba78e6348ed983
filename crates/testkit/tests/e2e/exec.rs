//! ExecSync: exit codes, streams, limits and deadlines.

use std::time::{Duration, Instant};

use anyhow::Result;
use berth_testkit::bed::{busybox, on_a_node};
use berth_testkit::cri::refused;
use berth_testkit::patience::here;
use berth_testkit::specs::Container;
use tonic::Code;

#[test]
fn an_exec_returns_streams_and_exit_codes() -> Result<()> {
    on_a_node(async |bed| {
        let (_, id) = bed.idle("exec").await?;
        let output = bed.cri.exec(&id, &["sh", "-c", "echo out; echo err >&2; exit 7"]).await?;
        assert_eq!(output.stdout, "out\n");
        assert_eq!(output.stderr, "err\n");
        assert_eq!(output.code, 7);
        let killed = bed.cri.exec(&id, &["sh", "-c", "kill -9 $$"]).await?;
        assert_eq!(killed.code, 137);
        Ok(())
    })
}

#[test]
fn an_exec_that_takes_too_long_is_killed_with_all_its_children() -> Result<()> {
    on_a_node(async |bed| {
        let (_, id) = bed.idle("slow").await?;
        let start = Instant::now();
        let line = "sleep 4711 & (sleep 4712; true) & setsid sleep 4713 & sleep 4714";
        let answer = bed.cri.exec_within(&id, &["sh", "-c", line], 1).await;
        assert_eq!(refused(answer), Code::DeadlineExceeded);
        let took = start.elapsed();
        assert!(took >= Duration::from_secs(1) && took < here(Duration::from_secs(5)), "{took:?}");
        let left = bed.cri.shell(&id, "ps").await?;
        assert!(!left.contains("sleep 471"), "{left}");
        assert!(left.contains("sleep 1000"), "the container itself goes on: {left}");
        Ok(())
    })
}

#[test]
fn each_stream_of_an_exec_is_cut_at_16_mib_and_the_command_still_ends() -> Result<()> {
    on_a_node(async |bed| {
        let (_, id) = bed.idle("much").await?;
        let line = "head -c 20000000 /dev/zero; echo small >&2; exit 5";
        let answer = bed.cri.exec_within(&id, &["sh", "-c", line], 30).await?;
        assert_eq!(answer.stdout.len(), 16 << 20);
        assert_eq!(answer.stderr, b"small\n");
        assert_eq!(answer.exit_code, 5);
        Ok(())
    })
}

#[test]
fn a_grandchild_that_keeps_the_pipe_does_not_hold_the_answer_back() -> Result<()> {
    on_a_node(async |bed| {
        let (_, id) = bed.idle("pipe").await?;
        let start = Instant::now();
        let output = bed.cri.exec(&id, &["sh", "-c", "sleep 30 & echo said"]).await?;
        assert_eq!(output.stdout, "said\n");
        assert!(start.elapsed() < Duration::from_secs(10));
        Ok(())
    })
}

#[test]
fn an_exec_needs_a_running_container_and_a_program() -> Result<()> {
    on_a_node(async |bed| {
        let (pod, id) = bed.idle("not").await?;
        let absent = bed.cri.exec(&id, &["/no/such/program"]).await;
        match absent {
            Err(status) => assert!(status.message().contains("/no/such/program"), "{status}"),
            Ok(output) => assert_ne!(output.code, 0),
        }
        let created = bed.cri.create(&pod, &Container::idle("b", &busybox())).await?;
        let early = refused(bed.cri.exec(&created, &["true"]).await);
        assert_eq!(early, Code::FailedPrecondition);
        bed.cri.stop(&id, 0).await?;
        assert_eq!(refused(bed.cri.exec(&id, &["true"]).await), Code::FailedPrecondition);
        assert_eq!(refused(bed.cri.exec("nobody", &["true"]).await), Code::NotFound);
        Ok(())
    })
}

#[test]
fn fifty_execs_at_once_all_answer() -> Result<()> {
    on_a_node(async |bed| {
        let (_, id) = bed.idle("probes").await?;
        let mut calls = tokio::task::JoinSet::new();
        for number in 0..50 {
            let (cri, id) = (bed.cri.clone(), id.clone());
            calls.spawn(async move { cri.shell(&id, &format!("echo {number}")).await });
        }
        let mut said: Vec<u32> = Vec::new();
        for answer in calls.join_all().await {
            said.push(answer?.parse()?);
        }
        said.sort_unstable();
        assert!(said.into_iter().eq(0..50));
        Ok(())
    })
}
