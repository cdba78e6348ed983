//! Commands run by ExecSync while the runtime fails, the daemon dies, or their container ends.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use berth_testkit::bed::{eventually, nobody_runs, on_a_node, somebody_runs};
use tonic::Code;

use super::{error, next_pod_is_fine, on_a_node_with_runtime, on_a_node_with_runtime_as, says};

#[test]
fn an_exec_that_the_runtime_fails_is_told_and_leaves_nothing() -> Result<()> {
    on_a_node_with_runtime(async |bed, runtime| {
        let (_, id) = bed.idle("exec").await?;
        for (lever, part) in [
            ("fail no way in", "no way in"),
            ("die", "137"),
            ("die-after", "137"),
            ("garbage", "exit code 1"),
            ("lie", "pid file says"),
            ("claim 1", "names pid 1"),
        ] {
            runtime.set("exec", lever)?;
            let answer = bed.cri.exec_within(&id, &["sleep", "4800"], 20).await;
            says(answer, Code::Internal, &[part, "crun exec"]);
            nobody_runs(bed, "sleep 4800").await?;
        }
        // A time-out strikes while the runtime is at it, before or after it has made the process.
        for lever in ["hang", "hang-after"] {
            runtime.set("exec", lever)?;
            let begin = Instant::now();
            says(
                bed.cri.exec_within(&id, &["sleep", "4801"], 1).await,
                Code::DeadlineExceeded,
                &["sleep", "4801"],
            );
            assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
            nobody_runs(bed, "sleep 4801").await?;
        }
        runtime.mend("exec")?;
        assert_eq!(bed.cri.shell(&id, "echo works").await?, "works");
        Ok(())
    })
}

#[test]
fn a_command_that_a_shim_by_others_is_slow_to_start_is_killed_once_it_has() -> Result<()> {
    let shim = crate::anyshim::Subject::runc_v2()?.shim;
    let told =
        |program: &Path| format!("shim = {shim:?}\noptions = {{ BinaryName = {program:?} }}");
    on_a_node_with_runtime_as(told, async |bed, runtime| {
        let (_, id) = bed.idle("late").await?;
        for within in [1, 7] {
            runtime.set("exec", "late")?;
            let call = {
                let (cri, id) = (bed.cri.clone(), id.clone());
                async move { cri.exec_within(&id, &["sh", "-c", "sleep 4802; true"], within).await }
            };
            // The shorter one is left by its caller as well, the longer one by nobody.
            let call = tokio::spawn(call);
            somebody_runs(bed, "sleep 4802").await?;
            match within {
                1 => call.abort(),
                _ => says(call.await?, Code::DeadlineExceeded, &["sleep 4802"]),
            }
            runtime.mend("exec")?;
            nobody_runs(bed, "sleep 4802").await?;
        }
        let bundle = bed.node.path(&format!("/run/berth/bundles/{id}"));
        let fifos = async || {
            let names = std::fs::read_dir(&bundle)?.flatten().map(|entry| entry.file_name());
            let left = names.filter(|name| name.to_string_lossy().starts_with("exec-")).count();
            Ok((left == 0).then_some(()))
        };
        eventually(|| "something of a command is left".to_owned(), fifos).await?;
        assert_eq!(bed.cri.shell(&id, "echo works").await?, "works");
        Ok(())
    })
}

#[test]
fn a_command_does_not_outlive_its_daemon_for_long() -> Result<()> {
    on_a_node(async |bed| {
        let (_, id) = bed.idle("orphan").await?;
        let cri = bed.cri.clone();
        let of = id.clone();
        let call =
            tokio::spawn(async move { cri.exec_within(&of, &["sleep", "4802"], 3600).await });
        eventually(
            || "the command does not run".to_owned(),
            async || Ok(bed.cri.shell(&id, "ps").await?.contains("sleep 4802").then_some(())),
        )
        .await?;
        bed.crash().await?;
        call.await?.expect_err("its daemon has died");
        nobody_runs(bed, "sleep 4802").await?;
        assert_eq!(bed.cri.shell(&id, "echo works").await?, "works");
        Ok(())
    })
}

#[test]
fn an_exec_that_meets_the_end_of_its_container_says_so() -> Result<()> {
    on_a_node(async |bed| {
        for round in 0..4 {
            let (pod, id) = bed.idle(&format!("end{round}")).await?;
            let mut calls = tokio::task::JoinSet::new();
            for _ in 0..10 {
                let (cri, id) = (bed.cri.clone(), id.clone());
                calls.spawn(async move {
                    loop {
                        match cri.exec_within(&id, &["true"], 10).await {
                            // 137: it was killed with the container.
                            Ok(answer) if answer.exit_code == 0 => {}
                            answer => return answer,
                        }
                    }
                });
            }
            // Some are under way, each at another point.
            bed.cri.shell(&id, "true").await?;
            bed.cri.stop(&id, 0).await?;
            while let Some(answer) = calls.join_next().await {
                match answer? {
                    Ok(answer) => assert_eq!(answer.exit_code, 137),
                    Err(status) => {
                        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
                    }
                }
            }
            bed.cri.clear(&pod.id).await?;
        }
        Ok(())
    })
}

#[test]
fn commands_that_say_too_much_together_are_refused_and_the_daemon_stays_small() -> Result<()> {
    on_a_node(async |bed| {
        let (_, id) = bed.idle("loud").await?;
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..12 {
            let (cri, id) = (bed.cri.clone(), id.clone());
            // They hold what they have said until somebody lets them go.
            let line = "head -c 16000000 /dev/zero; until [ -e /go ]; do usleep 50000; done";
            calls.spawn(async move { cri.exec_within(&id, &["sh", "-c", line], 80).await });
        }
        let (mut told, mut refused) = (0, 0);
        while let Some(answer) = calls.join_next().await {
            match answer? {
                Ok(answer) => {
                    assert_eq!(answer.stdout.len(), 16_000_000);
                    told += 1;
                }
                answer => {
                    let status = error(answer);
                    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                    assert!(status.message().contains("128 MiB"), "{status}");
                    bed.cri.shell(&id, "touch /go").await?;
                    refused += 1;
                }
            }
        }
        assert!(told >= 1 && refused >= 1, "{told} told, {refused} refused");
        next_pod_is_fine(bed, "quiet").await
    })
}
