//! SPDY: frames alone, and a session of them.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use tokio::io::AsyncReadExt as _;
use tokio::sync::oneshot;

use super::connection::{Connection, take};
use super::{pace, run};
use crate::ended::Ended;
use crate::spdy::frame::{CONTROL, Control, HEAD, Head, LARGEST_WINDOW};
use crate::spdy::headers::{BLOCK, Deflater, Headers, Inflater};
use crate::spdy::{Stream, session};

/// Takes the rest of `data` for what a client sends, in pieces as long as the first byte says.
///
/// # Panics
/// A frame is accepted beyond the limits, or is not the same when it is written again; the session goes otherwise
/// when the bytes come in pieces; or what it answers is no SPDY.
pub fn spdy(data: &[u8]) {
    let Some((&piece, bytes)) = data.split_first() else { return };
    frames(bytes);
    let whole = run(play(bytes, bytes.len()));
    let pieces = run(play(bytes, 1 + usize::from(piece)));
    assert_eq!(whole, pieces, "the pieces change it");
}

/// Reads frames to the first that cannot be read; gives what is left.
fn frames(mut bytes: &[u8]) -> &[u8] {
    let mut inflater = Inflater::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() {
        let Ok(head) = Head::parse(*head) else { break };
        let (Head::Control { length, .. } | Head::Data { length, .. }) = head;
        let Some((payload, after)) = rest.split_at_checked(length) else { break };
        match head {
            Head::Data { stream, .. } => assert!(0 < stream && stream <= LARGEST_WINDOW),
            Head::Control { kind, flags, .. } => {
                assert!(length <= CONTROL, "a control frame of {length} bytes");
                let Ok(control) = Control::parse(kind, flags, payload, &mut inflater) else {
                    break;
                };
                same(&control);
            }
        }
        bytes = after;
    }
    bytes
}

/// A control frame is the same when it is written and read again.
fn same(control: &Control) {
    if let Control::SynStream { headers, .. }
    | Control::SynReply { headers, .. }
    | Control::Headers { headers, .. } = control
    {
        let length: usize =
            headers.0.iter().map(|(name, value)| 8 + name.len() + value.len()).sum();
        assert!(length <= BLOCK, "headers of {length} bytes");
    }
    let mut frame = Vec::new();
    control.append(&mut Deflater::new(), &mut frame);
    let Some((head, payload)) = frame.split_first_chunk() else {
        return assert_eq!(*control, Control::Other);
    };
    if payload.len() > CONTROL {
        // Headers that compress badly; we send none of that size.
        return;
    }
    let Ok(Head::Control { kind, flags, length }) = Head::parse(*head) else {
        panic!("{control:?} was written as {head:?}")
    };
    assert_eq!(length, payload.len());
    let again = Control::parse(kind, flags, payload, &mut Inflater::new());
    assert_eq!(again.as_ref(), Ok(control));
}

/// What a stream gave: its headers, its bytes, and whether it ended well.
type Given = (Headers, Vec<u8>, bool);

/// The streams of a session, and how it ended.
async fn play(bytes: &[u8], piece: usize) -> (BTreeMap<u32, Given>, String) {
    let (connection, written) = Connection::new(bytes, piece);
    let (mut session, drive) = session(connection, pace());
    // What is given up would change what becomes of the others: nothing is, to the end.
    let (over, end) = oneshot::channel::<()>();
    let handle = async move {
        let mut streams = Vec::new();
        let mut held = Vec::new();
        while let Some(stream) = session.streams.recv().await {
            stream.accept().await;
            let Stream { id, headers, mut inbox, outbox, gone, .. } = stream;
            held.push((outbox, gone));
            streams.push(tokio::spawn(async move {
                let mut bytes = Vec::new();
                let well = inbox.read_to_end(&mut bytes).await.is_ok();
                (id, (headers, bytes, well))
            }));
        }
        let _ended = end.await;
        drop(held);
        join_all(streams).await.into_iter().flatten().collect::<BTreeMap<_, _>>()
    };
    let drive = async move {
        let ended = drive.await;
        drop(over);
        ended
    };
    let (streams, ended) = tokio::join!(handle, drive);
    let (written, protocol) = (take(&written), ended.is_protocol());
    let left = frames(&written);
    assert_eq!(left, [0; 0], "what is answered is no SPDY");
    assert!(!matches!(ended, Ended::Fine | Ended::Idle(_)), "nobody ended it, but {ended}");
    // GOAWAY has a fixed length and comes last.
    let goodbye = written.len().checked_sub(HEAD + 8).map(|at| &written[at..at + 4]);
    assert_eq!(protocol, goodbye == Some(&[0x80, 3, 0, 7]), "a client is told what it did wrong");
    (streams, ended.to_string())
}
