//! What a listener is told, beside what has happened.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{Bed, busybox, on_a_node};
use berth_testkit::cri::{Cri, in_time};
use berth_testkit::specs::Container;
use cri::ContainerEventType as Event;
use tonic::{Code, Request, Streaming};

const CREATED: Event = Event::ContainerCreatedEvent;
const STARTED: Event = Event::ContainerStartedEvent;
const STOPPED: Event = Event::ContainerStoppedEvent;
const DELETED: Event = Event::ContainerDeletedEvent;

type Events = Streaming<cri::ContainerEventResponse>;

async fn listen(cri: &Cri) -> Result<Events> {
    // Without a deadline: it is open for as long as the test is.
    let request = Request::new(cri::GetEventsRequest {});
    Ok(cri.runtime.clone().get_container_events(request).await?.into_inner())
}

async fn next(events: &mut Events) -> Result<cri::ContainerEventResponse> {
    let next = tokio::time::timeout(Duration::from_secs(30), events.message());
    next.await.context("no event within half a minute")??.context("the stream has ended")
}

/// The next events are these, of these containers, with rising times; gives the last.
async fn next_are(
    events: &mut Events,
    expected: &[(Event, &str)],
) -> Result<cri::ContainerEventResponse> {
    let mut last = cri::ContainerEventResponse::default();
    for (kind, id) in expected {
        let event = next(events).await?;
        let told = (event.container_event_type(), event.container_id.as_str());
        ensure!(told == (*kind, *id), "{told:?}, not {:?}", (kind, id));
        ensure!(event.created_at >= last.created_at, "time goes forward");
        last = event;
    }
    Ok(last)
}

/// The state of a container as an event has it.
fn state(event: &cri::ContainerEventResponse, id: &str) -> Option<cri::ContainerState> {
    event.containers_statuses.iter().find(|c| c.id == id).map(|c| c.state())
}

#[test]
fn every_step_of_a_pod_and_its_containers_is_told_in_order() -> Result<()> {
    on_a_node(async |bed| {
        let cri = bed.cri.clone();
        let (mut events, mut other) = (listen(&cri).await?, listen(&cri).await?);
        let pod = cri.run(&bed.pod("told").label("app", "told")).await?;
        let begun = next_are(&mut events, &[(CREATED, &pod.id), (STARTED, &pod.id)]).await?;
        let status = begun.pod_sandbox_status.context("the pod's status")?;
        assert_eq!(status, cri.pod_status(&pod.id).await?);

        let id = cri.create(&pod, &Container::idle("a", &busybox())).await?;
        let created = next_are(&mut events, &[(CREATED, &id)]).await?;
        assert_eq!(state(&created, &id), Some(cri::ContainerState::ContainerCreated));
        cri.start(&id).await?;
        let started = next_are(&mut events, &[(STARTED, &id)]).await?;
        assert_eq!(started.containers_statuses, [cri.container(&id).await?]);

        // It ends by itself; the event comes without anybody asking.
        bed.node.run("kill", &["-9", &bed.pid(&id).await?.to_string()])?;
        let stopped = next_are(&mut events, &[(STOPPED, &id)]).await?;
        assert_eq!(stopped.containers_statuses, [cri.container(&id).await?]);
        assert_eq!(stopped.containers_statuses[0].exit_code, 137);

        cri.remove(&id).await?;
        let deleted = next_are(&mut events, &[(DELETED, &id)]).await?;
        assert_eq!(deleted.containers_statuses, []);
        let second = cri.launch(&pod, &Container::idle("b", &busybox())).await?;
        next_are(&mut events, &[(CREATED, &second), (STARTED, &second)]).await?;
        cri.stop_pod(&pod.id).await?;
        let over = next_are(&mut events, &[(STOPPED, &second), (STOPPED, &pod.id)]).await?;
        let status = over.pod_sandbox_status.context("the pod's status")?;
        assert_eq!(status.state(), cri::PodSandboxState::SandboxNotready);
        cri.remove_pod(&pod.id).await?;
        let gone = next_are(&mut events, &[(DELETED, &second), (DELETED, &pod.id)]).await?;
        let status = gone.pod_sandbox_status.context("the pod's status")?;
        assert_eq!(status.metadata.context("its name")?.name, "told");

        // The other one heard the same, all of it waiting for it.
        let all = [
            [(CREATED, &pod.id), (STARTED, &pod.id)],
            [(CREATED, &id), (STARTED, &id)],
            [(STOPPED, &id), (DELETED, &id)],
            [(CREATED, &second), (STARTED, &second)],
            [(STOPPED, &second), (STOPPED, &pod.id)],
            [(DELETED, &second), (DELETED, &pod.id)],
        ];
        let all: Vec<_> = all.iter().flatten().map(|(kind, id)| (*kind, id.as_str())).collect();
        next_are(&mut other, &all).await?;
        Ok(())
    })
}

#[test]
fn what_is_not_in_the_list_yet_is_told_also_while_everything_happens_at_once() -> Result<()> {
    on_a_node(async |bed| {
        let pod = bed.cri.run(&bed.pod("storm")).await?;
        let work = async |bed: &Bed, name: String| {
            let short = Container::new(&name, &busybox()).shell("exit 3");
            let id = bed.cri.launch(&pod, &short).await?;
            bed.cri.exited(&id).await?;
            anyhow::Ok(id)
        };
        let listening = async {
            let mut listeners = Vec::new();
            for _ in 0..8 {
                let events = listen(&bed.cri).await?;
                let listed = bed.cri.containers().await?;
                listeners.push((events, listed));
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            anyhow::Ok(listeners)
        };
        let some = async |from: usize| {
            let mut ids = Vec::new();
            for n in 0..4 {
                ids.push(work(bed, format!("c{}", from + n)).await?);
            }
            anyhow::Ok(ids)
        };
        let (a, b, listeners) = tokio::join!(some(0), some(10), listening);
        let ids: Vec<_> = a?.into_iter().chain(b?).collect();
        for (mut events, listed) in listeners? {
            let ended = cri::ContainerState::ContainerExited;
            let mut open: Vec<_> = ids
                .iter()
                .filter(|id| !listed.iter().any(|c| c.id == **id && c.state() == ended))
                .collect();
            while !open.is_empty() {
                let event = next(&mut events).await?;
                if event.container_event_type() == STOPPED {
                    open.retain(|id| **id != event.container_id);
                }
            }
        }
        Ok(())
    })
}

#[test]
fn an_exit_that_a_dead_daemon_missed_is_in_the_list_or_told() -> Result<()> {
    on_a_node(async |bed| {
        let (_, id) = bed.idle("missed").await?;
        let pid = bed.pid(&id).await?;
        let mut events = listen(&bed.cri).await?;
        bed.node.kill_daemon()?;
        assert!(events.message().await.is_err(), "it ended with its daemon");
        bed.node.run("kill", &["-9", &pid.to_string()])?;
        bed.start().await?;
        let mut events = listen(&bed.cri).await?;
        if bed.cri.container(&id).await?.state() != cri::ContainerState::ContainerExited {
            next_are(&mut events, &[(STOPPED, &id)]).await?;
        }
        assert_eq!(bed.cri.container(&id).await?.exit_code, 137);
        bed.cri.remove(&id).await?;
        while next(&mut events).await?.container_event_type() != DELETED {}
        Ok(())
    })
}

#[test]
fn a_daemon_that_ends_says_so_to_its_listeners_and_does_not_wait_for_them() -> Result<()> {
    on_a_node(async |bed| {
        let mut events = listen(&bed.cri).await?;
        bed.node.stop_daemon()?;
        let end = events.message().await.err().context("the stream ends")?;
        assert_eq!(end.code(), Code::Unavailable, "{end}");
        bed.start().await?;
        let request = in_time(cri::ListContainersRequest::default());
        bed.cri.runtime.clone().list_containers(request).await?;
        Ok(())
    })
}
