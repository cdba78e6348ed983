//! GetContainerEvents: what happens to sandboxes and containers from the call on.
//!
//! A sandbox's events carry its id as that of the container, as with other runtimes. Each event has
//! the status of its pod and of all its containers.

use berth_lifecycle::{Change, Happening, Listening, Silence};
use berth_proto::cri::v1 as cri;
use futures_util::stream;
use tonic::{Code, Status};

use crate::messages::Messages;
use crate::{Cri, describe, status};

pub(crate) fn get_container_events(
    cri: &Cri,
    _request: cri::GetEventsRequest,
) -> Messages<cri::ContainerEventResponse> {
    let next = |listening: Option<Listening>| async move {
        let mut listening = listening?;
        Some(match listening.next().await {
            Ok(happening) => (Ok(event(&happening)), Some(listening)),
            Err(silence) => (Err(ended(silence)), None),
        })
    };
    Box::pin(stream::unfold(Some(cri.parts.node.listen()), next))
}

fn event(happening: &Happening) -> cri::ContainerEventResponse {
    let pod = &happening.pod;
    let kind = match happening.change {
        Change::Created => cri::ContainerEventType::ContainerCreatedEvent,
        Change::Started => cri::ContainerEventType::ContainerStartedEvent,
        Change::Stopped => cri::ContainerEventType::ContainerStoppedEvent,
        Change::Deleted => cri::ContainerEventType::ContainerDeletedEvent,
    };
    let container = happening.container.as_ref().map(ToString::to_string);
    cri::ContainerEventResponse {
        container_id: container.unwrap_or_else(|| pod.id().to_string()),
        container_event_type: kind as i32,
        created_at: happening.at,
        pod_sandbox_status: Some(describe::pod_status(pod)),
        containers_statuses: pod.containers.iter().map(|c| describe::container_status(c)).collect(),
    }
}

fn ended(silence: Silence) -> Status {
    match silence {
        Silence::Late => {
            let text = "events were taken too slowly and some are lost: listen again, then list";
            tracing::warn!(error = text, "a stream of container events ends");
            status(Code::ResourceExhausted, text)
        }
        Silence::End => status(Code::Unavailable, "the daemon ends: listen again, then list"),
    }
}
