//! Lists in several messages, each of a bounded size: for nodes whose lists outgrow one message.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _, stream};
use prost::Message;
use tonic::Status;

use crate::Error;

/// A message is about this large at most: gRPC clients take 4 MiB. One item is never divided.
const LARGEST: usize = 512 << 10;

/// So many pods or containers are read at a time where reading is work.
const AT_A_TIME: usize = 32;

/// What an item takes beside its own bytes: its tag, and its length.
const FRAME: usize = 6;

/// What a streaming call answers.
pub(crate) type Messages<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// Items in groups that fit into a message. Each is made when its message is.
struct Groups<Items: Iterator> {
    items: Items,
    over: Option<Items::Item>,
}

impl<Items: Iterator<Item: Message>> Iterator for Groups<Items> {
    type Item = Vec<Items::Item>;

    fn next(&mut self) -> Option<Self::Item> {
        let (mut group, mut size) = (Vec::new(), 0);
        while let Some(item) = self.over.take().or_else(|| self.items.next()) {
            size += item.encoded_len() + FRAME;
            if !group.is_empty() && size > LARGEST {
                self.over = Some(item);
                break;
            }
            group.push(item);
        }
        Some(group).filter(|group| !group.is_empty())
    }
}

fn groups<I: Message>(items: impl Iterator<Item = I>) -> impl Iterator<Item = Vec<I>> {
    Groups { items, over: None }
}

/// Messages of what is at hand; `wrap` makes one of the items for it.
pub(crate) fn of<I: Message + 'static, M: Send + 'static>(
    items: impl Iterator<Item = I> + Send + 'static,
    wrap: fn(Vec<I>) -> M,
) -> Messages<M> {
    Box::pin(stream::iter(groups(items).map(move |group| Ok(wrap(group)))))
}

/// Messages of what `read` makes of these pods or containers, some at a time, when they are asked
/// for: a reader that is slow makes nobody wait but itself.
pub(crate) fn of_read<V, I, M, F>(
    views: Vec<Arc<V>>,
    read: impl Fn(Vec<Arc<V>>) -> F + Send + 'static,
    wrap: fn(Vec<I>) -> M,
) -> Messages<M>
where
    V: Send + Sync + 'static,
    I: Message + 'static,
    M: Send + 'static,
    F: Future<Output = Result<Vec<I>, Error>> + Send + 'static,
{
    let parts: Vec<_> = views.chunks(AT_A_TIME).map(<[_]>::to_vec).collect();
    let made = stream::iter(parts).then(read).flat_map(move |read| {
        let messages: Vec<_> = match read {
            Ok(items) => groups(items.into_iter()).map(|group| Ok(wrap(group))).collect(),
            Err(why) => vec![Err(Status::from(why))],
        };
        stream::iter(messages)
    });
    Box::pin(made)
}

#[cfg(test)]
mod tests {
    use berth_proto::cri::v1 as cri;

    use super::*;

    fn pods(sizes: &[usize]) -> impl Iterator<Item = cri::PodSandbox> {
        sizes.iter().map(|size| cri::PodSandbox { id: "x".repeat(*size), ..Default::default() })
    }

    #[test]
    fn a_message_is_small_and_no_item_is_lost_or_divided() {
        let sizes = [1, LARGEST - 100, 200, 2 * LARGEST, 3, 4];
        let groups: Vec<_> = groups(pods(&sizes)).collect();
        let lengths: Vec<Vec<_>> =
            groups.iter().map(|group| group.iter().map(|pod| pod.id.len()).collect()).collect();
        assert_eq!(lengths, [&sizes[..2], &sizes[2..3], &sizes[3..4], &sizes[4..]]);
        for group in groups.into_iter().filter(|group| group.len() > 1) {
            let message = cri::StreamPodSandboxesResponse { pod_sandboxes: group };
            assert!(message.encoded_len() <= LARGEST);
        }
    }

    #[tokio::test]
    async fn what_is_read_comes_in_order_and_an_error_is_told() {
        let views: Vec<_> = (0..3 * AT_A_TIME).map(Arc::new).collect();
        let read = |part: Vec<Arc<usize>>| async move {
            if part.iter().any(|view| **view == 2 * AT_A_TIME) {
                return Err(Error::Dropped("the test"));
            }
            let pod =
                |view: &Arc<usize>| cri::PodSandbox { id: view.to_string(), ..Default::default() };
            Ok(part.iter().map(pod).collect())
        };
        let wrap = |pod_sandboxes| cri::StreamPodSandboxesResponse { pod_sandboxes };
        let mut messages = of_read(views, read, wrap);
        let mut next = 0;
        for _ in 0..2 {
            for pod in messages.next().await.unwrap().unwrap().pod_sandboxes {
                assert_eq!(pod.id, next.to_string());
                next += 1;
            }
        }
        assert_eq!(next, 2 * AT_A_TIME);
        assert!(messages.next().await.unwrap().is_err());
        assert!(messages.next().await.is_none());
    }
}
