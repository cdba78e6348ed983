//! Calls that are repeated: by a caller that lost the answer, or never waited for it.

use std::time::Duration;

use anyhow::Result;
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{busybox, on_a_node};
use berth_testkit::config::Config;
use berth_testkit::cri::{in_time, refused};
use berth_testkit::specs::{Container, Pod};
use tonic::Code;

use crate::standin::{Plugin, on_a_node_with_plugin};

#[test]
fn the_same_pod_run_again_is_the_same_pod() -> Result<()> {
    on_a_node(async |bed| {
        let pod = Pod::new("again");
        let first = bed.cri.run(&pod).await?;
        assert_eq!(bed.cri.run(&pod).await?.id, first.id);
        let other = pod.clone().label("now", "different");
        assert_eq!(refused(bed.cri.run(&other).await), Code::AlreadyExists);
        // The next attempt never waits for the one before.
        let next = bed.cri.run(&pod.clone().attempt(1)).await?;
        assert_ne!(next.id, first.id);
        assert_eq!(bed.cri.pods().await?.len(), 2);
        Ok(())
    })
}

#[test]
fn the_same_container_created_or_started_again_is_the_same_container() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("again")).await?;
        let container = Container::idle("a", &busybox());
        let id = cri.create(&pod, &container).await?;
        assert_eq!(cri.create(&pod, &container).await?, id);
        cri.start(&id).await?;
        let pid = bed.pid(&id).await?;
        cri.start(&id).await?;
        assert_eq!(bed.pid(&id).await?, pid);
        let other = container.clone().env("A", "B");
        assert_eq!(refused(cri.create(&pod, &other).await), Code::AlreadyExists);
        cri.stop(&id, 5).await?;
        cri.stop(&id, 5).await?;
        cri.remove(&id).await?;
        cri.remove(&id).await?;
        Ok(())
    })
}

#[test]
fn a_caller_that_goes_away_finds_its_pod_when_it_comes_again() -> Result<()> {
    on_a_node_with_plugin(Config::default(), async |bed, plugin: &Plugin| {
        plugin.block("ADD")?;
        let pod = bed.pod("patient");
        let mut request = in_time(cri::RunPodSandboxRequest {
            config: Some(pod.config()),
            runtime_handler: String::new(),
        });
        request.set_timeout(Duration::from_millis(300));
        let code = refused(bed.cri.runtime.clone().run_pod_sandbox(request).await);
        assert!([Code::DeadlineExceeded, Code::Cancelled].contains(&code), "{code:?}");
        // Nobody was told of it: it is not listed, or the kubelet would count an attempt.
        plugin.called("ADD").await?;
        assert!(bed.cri.pods().await?.is_empty());
        let cri = bed.cri.clone();
        let again = pod.clone();
        let second = tokio::spawn(async move { cri.run(&again).await });
        plugin.release("ADD")?;
        let second = second.await??;
        assert_eq!(bed.cri.pods().await?.len(), 1);
        assert_eq!(bed.cri.run(&pod).await?.id, second.id);
        assert_eq!(plugin.calls("ADD")?.len(), 1, "the work was joined, not done again");
        Ok(())
    })
}

#[test]
fn a_stop_pre_empts_a_pod_that_is_still_being_made() -> Result<()> {
    on_a_node_with_plugin(Config::default(), async |bed, plugin: &Plugin| {
        // The work of a pod nobody is told of cannot be named; its container's can.
        let pod = bed.cri.run(&bed.pod("short")).await?;
        let id = bed.cri.create(&pod, &Container::idle("a", &busybox())).await?;
        let cri = bed.cri.clone();
        let stopped = pod.id.clone();
        let stop = tokio::spawn(async move { cri.stop_pod(&stopped).await });
        stop.await??;
        assert_eq!(refused(bed.cri.start(&id).await), Code::FailedPrecondition);
        let late = bed.cri.create(&pod, &Container::idle("b", &busybox())).await;
        assert_eq!(refused(late), Code::FailedPrecondition);
        assert_eq!(plugin.calls("DEL")?.len(), 1);
        Ok(())
    })
}

#[test]
fn ten_callers_of_one_pod_get_one_pod() -> Result<()> {
    on_a_node(async |bed| {
        let pod = Pod::new("popular");
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let (cri, pod) = (bed.cri.clone(), pod.clone());
            calls.spawn(async move { cri.run(&pod).await.map(|pod| pod.id) });
        }
        let ids: Vec<_> = calls.join_all().await.into_iter().collect::<Result<_, _>>()?;
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        assert_eq!(bed.cri.pods().await?.len(), 1);
        Ok(())
    })
}
