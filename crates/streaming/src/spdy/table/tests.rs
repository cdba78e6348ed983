use std::future::poll_fn;

use tokio::io::AsyncReadExt as _;

use super::*;
use crate::inbox::{Inbox, inbox};

fn table() -> Arc<Table> {
    Arc::new(Table::new())
}

fn open(table: &Arc<Table>, stream: u32) -> (Inbox, CancellationToken) {
    let counted = table.clone();
    let (feed, inbox) = inbox(Some(Box::new(move |count| counted.read(stream, count))));
    match table.open(stream, feed, false) {
        Opened::Stream(gone) => (inbox, gone),
        Opened::Full | Opened::Misnumbered => panic!("stream {stream} is not opened"),
    }
}

/// What may be sent now: `None` if that waits.
async fn may_send(table: &Arc<Table>, stream: u32, wanted: usize) -> Option<io::Result<usize>> {
    poll_fn(|cx| match table.poll_open(stream, wanted, cx) {
        Poll::Ready(open) => Poll::Ready(Some(open)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

fn is_new(opened: &Opened) -> bool {
    matches!(opened, Opened::Stream(_))
}

#[test]
fn numbers_are_odd_and_grow() {
    let table = table();
    let add = |stream| table.open(stream, inbox(None).0, false);
    assert!(is_new(&add(1)));
    assert!(is_new(&add(7)));
    for wrong in [0, 1, 2, 5, 7, 8] {
        assert!(matches!(add(wrong), Opened::Misnumbered), "{wrong}");
    }
    assert!(is_new(&add(9)));
}

#[test]
fn the_number_of_streams_is_bounded() {
    let table = table();
    for stream in 0..STREAMS as u32 {
        assert!(is_new(&table.open(2 * stream + 1, inbox(None).0, false)));
    }
    let next = 2 * STREAMS as u32 + 1;
    assert!(matches!(table.open(next, inbox(None).0, false), Opened::Full));
    assert!(table.reset(1));
    assert!(is_new(&table.open(next + 2, inbox(None).0, false)));
}

#[tokio::test]
async fn a_client_that_knows_no_windows_is_not_held_to_them() {
    let table = table();
    let _streams = open(&table, 1);
    for _ in 0..10 {
        assert_eq!(table.take(1, HELD), HELD);
    }
    assert!(matches!(may_send(&table, 1, 10).await, Some(Ok(10))));
}

#[tokio::test]
async fn a_window_closes_and_opens() {
    let table = table();
    let _streams = (open(&table, 1), open(&table, 3));
    table.resize(100);
    assert_eq!(table.take(1, 70), 70);
    assert!(matches!(may_send(&table, 1, 70).await, Some(Ok(30))));
    assert_eq!(table.take(1, 70), 30);
    assert!(may_send(&table, 1, 1).await.is_none());
    assert!(matches!(may_send(&table, 3, 1).await, Some(Ok(1))));
    table.widen(1, 5).unwrap();
    assert!(matches!(may_send(&table, 1, 70).await, Some(Ok(5))));
    table.resize(90);
    assert!(may_send(&table, 1, 70).await.is_none());
}

#[tokio::test]
async fn the_session_has_a_window_too() {
    let table = table();
    let _streams = (open(&table, 1), open(&table, 3));
    table.resize(LARGEST_WINDOW);
    assert_eq!(table.take(1, HELD - 1), HELD - 1);
    assert!(matches!(may_send(&table, 3, 10).await, Some(Ok(1))));
    assert_eq!(table.take(3, 1), 1);
    assert!(may_send(&table, 3, 10).await.is_none());
    table.widen(0, 4).unwrap();
    assert!(matches!(may_send(&table, 3, 10).await, Some(Ok(4))));
}

#[tokio::test]
async fn a_window_has_a_largest_size() {
    let table = table();
    let _streams = open(&table, 1);
    assert_eq!(table.widen(1, LARGEST_WINDOW), Err(Reset::FlowControl));
    assert_eq!(table.widen(0, LARGEST_WINDOW), Err(Reset::FlowControl));
    assert_eq!(table.widen(99, LARGEST_WINDOW), Ok(()));
}

#[tokio::test]
async fn what_is_read_is_given_back() {
    let table = table();
    let (mut inbox, _gone) = open(&table, 1);
    let feed = table.feed(1).unwrap_or_else(|_| panic!("no stream"));
    feed.push(&[0; HELD]);
    table.received(HELD);
    let session = Control::WindowUpdate { stream: 0, delta: HELD as u32 };
    assert_eq!(table.updates(), [session]);
    inbox.read_exact(&mut [0; DUE as usize - 1]).await.unwrap();
    assert_eq!(table.updates(), []);
    inbox.read_exact(&mut [0; 11]).await.unwrap();
    let stream = Control::WindowUpdate { stream: 1, delta: DUE + 10 };
    assert_eq!(table.updates(), [stream]);
    assert_eq!(table.updates(), []);
}

#[tokio::test]
async fn a_stream_that_is_reset_is_over_for_both_ends() {
    let table = table();
    let (mut inbox, gone) = open(&table, 1);
    table.resize(0);
    let waiting = tokio::spawn({
        let table = table.clone();
        async move { poll_fn(|cx| table.poll_open(1, 1, cx)).await }
    });
    tokio::task::yield_now().await;
    assert!(table.reset(1) && gone.is_cancelled());
    assert!(waiting.await.unwrap().is_err());
    assert!(inbox.read_u8().await.is_err());
    assert!(!table.reset(1));
    assert!(matches!(table.feed(1), Err(true)) && matches!(table.feed(3), Err(false)));
}

#[tokio::test]
async fn a_stream_that_both_sides_ended_is_forgotten() {
    let table = table();
    let (mut inbox, gone) = open(&table, 1);
    table.heard(1);
    assert_eq!(inbox.read(&mut [0]).await.unwrap(), 0);
    assert!(table.speaks(1));
    table.said(1);
    assert!(!table.speaks(1) && !gone.is_cancelled());
    assert_eq!(table.last(), 1);
}

#[tokio::test]
async fn the_end_of_the_session_is_the_end_of_its_streams() {
    let table = table();
    let (mut inbox, gone) = open(&table, 1);
    table.end();
    assert!(gone.is_cancelled() && inbox.read_u8().await.is_err());
    assert!(matches!(table.open(3, crate::inbox::inbox(None).0, false), Opened::Full));
}
