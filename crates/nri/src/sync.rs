//! The state of the node, given to a plugin in messages that ttrpc takes.

use crate::api::{Container, ContainerUpdate, PodSandbox, SynchronizeRequest, SynchronizeResponse};
use crate::error::After;
use crate::plugin::Plugin;
use crate::{Settings, State};
use prost::Message as _;

/// How much of the state a message holds, bytes: ttrpc's limit, less what is wrapped around it.
const LARGEST: usize = (4 << 20) - (64 << 10);

/// What one entry takes beside its own bytes: a tag and a length.
const OVERHEAD: usize = 8;

/// Gives a plugin the state; gives the updates that it asks for.
///
/// # Errors
/// It refuses, is gone, or takes no state in pieces.
pub(crate) async fn synchronize(
    plugin: &Plugin,
    state: State,
    settings: &Settings,
) -> Result<Vec<ContainerUpdate>, After> {
    // It is still coming in, and has the whole node to look at.
    let limit = settings.registration.max(settings.request);
    for request in pieces(state, LARGEST) {
        let more = request.more;
        let answer: Option<SynchronizeResponse> =
            plugin.call_within("Synchronize", &request, limit).await?;
        let answer = answer.unwrap_or_default();
        if !more {
            return Ok(answer.update);
        }
        if !answer.more || !answer.update.is_empty() {
            let text = "the node's state is larger than a message, and it takes none in pieces";
            return Err(After::Lost(text.to_owned()));
        }
    }
    Ok(Vec::new())
}

enum Entry {
    Pod(PodSandbox),
    Container(Container),
}

/// At least one request; of all but the last, `more` is true.
fn pieces(state: State, largest: usize) -> Vec<SynchronizeRequest> {
    let pods = state.pods.into_iter().map(Entry::Pod);
    let entries = pods.chain(state.containers.into_iter().map(Entry::Container));
    let mut pieces = vec![SynchronizeRequest::default()];
    let mut room = largest;
    for entry in entries {
        let length = OVERHEAD
            + match &entry {
                Entry::Pod(pod) => pod.encoded_len(),
                Entry::Container(container) => container.encoded_len(),
            };
        let piece = pieces
            .last_mut()
            .filter(|piece| length <= room || piece.pods.is_empty() && piece.containers.is_empty());
        let piece = match piece {
            Some(piece) => piece,
            None => {
                room = largest;
                if let Some(full) = pieces.last_mut() {
                    full.more = true;
                }
                pieces.push(SynchronizeRequest::default());
                let Some(piece) = pieces.last_mut() else { break };
                piece
            }
        };
        room = room.saturating_sub(length);
        match entry {
            Entry::Pod(pod) => piece.pods.push(pod),
            Entry::Container(container) => piece.containers.push(container),
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_larger_than_a_message_comes_in_pieces_and_whole() {
        let id = |number: usize| format!("{number:0100}");
        let pods = (0..20).map(|n| PodSandbox { id: id(n), ..PodSandbox::default() });
        let containers = (20..50).map(|n| Container { id: id(n), ..Container::default() });
        let state = State { pods: pods.collect(), containers: containers.collect() };
        let pieces = pieces(state.clone(), 1000);
        assert!(pieces.len() > 5);
        let (last, first) = pieces.split_last().unwrap();
        assert!(first.iter().all(|piece| piece.more) && !last.more);
        assert!(pieces.iter().all(|piece| piece.encoded_len() <= 1000));
        let all = State {
            pods: pieces.iter().flat_map(|piece| piece.pods.clone()).collect(),
            containers: pieces.iter().flat_map(|piece| piece.containers.clone()).collect(),
        };
        assert_eq!(all, state);
    }

    #[test]
    fn an_empty_node_is_told_as_well() {
        assert_eq!(pieces(State::default(), 1000), [SynchronizeRequest::default()]);
    }

    #[test]
    fn an_entry_that_is_too_large_stands_alone() {
        let pod = |bytes| PodSandbox { name: "x".repeat(bytes), ..PodSandbox::default() };
        let state = State { pods: vec![pod(1), pod(2000), pod(1)], containers: Vec::new() };
        let lengths: Vec<_> = pieces(state, 1000).iter().map(|piece| piece.pods.len()).collect();
        assert_eq!(lengths, [1, 1, 1]);
    }
}
