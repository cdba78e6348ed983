//! What takes longer than a minute: `make test-long` runs these, `make test` does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use berth_testkit::bed::{busybox, on_a_node, on_a_node_with};
use berth_testkit::config::Config;
use berth_testkit::cri::Cri;
use berth_testkit::demo;
use berth_testkit::specs::{Container, Pod};

/// Runs a pod with a container through its life.
async fn live(cri: &Cri, pod: &Pod) -> Result<()> {
    let running = cri.run(pod).await?;
    let id = cri.launch(&running, &Container::idle("a", &busybox())).await?;
    assert_eq!(cri.shell(&id, "echo lives").await?, "lives");
    cri.clear(&running.id).await.map_err(Into::into)
}

#[test]
fn long_a_thousand_pods_come_and_go_and_nothing_stays() -> Result<()> {
    on_a_node(async |bed| {
        for round in 0..100 {
            let mut lives = tokio::task::JoinSet::new();
            for number in 0..10 {
                let (cri, pod) = (bed.cri.clone(), bed.pod(&format!("p{round}-{number}")));
                lives.spawn(async move { live(&cri, &pod).await });
            }
            for outcome in lives.join_all().await {
                outcome.with_context(|| format!("round {round}"))?;
            }
        }
        bed.is_clean()
    })
}

#[test]
fn long_a_daemon_killed_again_and_again_under_load_loses_nothing() -> Result<()> {
    on_a_node(async |bed| {
        let (_, bystander) = bed.idle("bystander").await?;
        let untouched = bed.identity(&bystander).await?;
        for round in 0..60u64 {
            let stop = Arc::new(AtomicBool::new(false));
            let mut callers = tokio::task::JoinSet::new();
            for number in 0..4 {
                let (cri, stop) = (bed.cri.clone(), Arc::clone(&stop));
                let pod = bed.pod(&format!("p{round}-{number}"));
                callers.spawn(async move {
                    let mut attempt = 0;
                    while !stop.load(Ordering::Acquire) {
                        // Calls fail when the daemon dies: that is what this is about.
                        let _ = live(&cri, &pod.clone().attempt(attempt)).await;
                        attempt += 1;
                    }
                });
            }
            // Another moment each time: 10 ms to 600 ms into the work.
            tokio::time::sleep(Duration::from_millis(10 * (round + 1))).await;
            bed.node.kill_daemon()?;
            stop.store(true, Ordering::Release);
            callers.join_all().await;
            bed.start().await?;
            assert_eq!(bed.identity(&bystander).await?, untouched, "round {round}");
            for pod in bed.cri.pods().await? {
                if pod.metadata.as_ref().is_some_and(|own| own.name != "bystander") {
                    bed.cri.clear(&pod.id).await?;
                }
            }
        }
        // What a caller gave up unanswered removes itself two minutes after the last restart;
        // here that is some two hundred pods at once.
        bed.cri.clear_all().await?;
        bed.becomes_clean(Duration::from_secs(240))
    })
}

#[test]
fn long_a_minute_of_a_million_lines_loses_none_through_ten_crashes() -> Result<()> {
    on_a_node(async |bed| {
        let pod = bed.cri.run(&bed.pod("count")).await?;
        let id =
            bed.cri.launch(&pod, &Container::new("a", &busybox()).shell(demo::COUNTER)).await?;
        let before = bed.identity(&id).await?;
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(3)).await;
            bed.crash().await?;
            assert_eq!(bed.identity(&id).await?, before);
        }
        bed.cri.stop(&id, 10).await?;
        let lines = demo::count(&bed.logs("count").join("a.0.log"))?;
        assert!(lines > 2_000_000, "{lines}");
        Ok(())
    })
}

#[test]
fn long_both_runtimes_pass_the_life_of_a_pod() -> Result<()> {
    for runtime in ["crun", "runc"] {
        let text = format!("[handlers.berth]\nruntime = \"{runtime}\"\n");
        let config = Config::default().drop_in("50-runtime.toml", &text);
        on_a_node_with(config, &["busybox"], async |bed| {
            for number in 0..50 {
                live(&bed.cri, &bed.pod(&format!("p{number}"))).await?;
            }
            Ok(())
        })?;
    }
    Ok(())
}
