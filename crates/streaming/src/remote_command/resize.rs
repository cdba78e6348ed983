//! Sizes of the client's terminal: JSON objects, one after the other.

use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;

use crate::Size;
use crate::inbox::Inbox;

/// More than one size needs.
const LONGEST: usize = 1024;

#[derive(Deserialize)]
struct Message {
    #[serde(rename = "Width")]
    width: u16,
    #[serde(rename = "Height")]
    height: u16,
}

/// Passes on the newest size until the client sends no more, or something else. Whoever takes sizes slowly
/// misses those in between, and nobody waits for it.
pub(super) async fn pass_on(mut from: Inbox, to: mpsc::Sender<Size>) {
    let (mut bytes, mut newest) = (Vec::new(), None);
    loop {
        let mut piece = [0; LONGEST];
        tokio::select! {
            permit = to.reserve(), if newest.is_some() => match (permit, newest.take()) {
                (Ok(permit), Some(size)) => permit.send(size),
                _ => return,
            },
            read = from.read(&mut piece) => match read {
                Ok(count @ 1..) => {
                    bytes.extend_from_slice(&piece[..count]);
                    match last(&mut bytes) {
                        Ok(size) => newest = size.or(newest),
                        Err(NoSize) => {
                            tracing::debug!("a client sent no size where one should stand");
                            return;
                        }
                    }
                }
                Ok(0) | Err(_) => break,
            },
        }
    }
    if let Some(size) = newest {
        // Nobody wants it.
        let _gone = to.send(size).await;
    }
}

#[derive(Debug, PartialEq, Eq)]
struct NoSize;

/// The last of the sizes that stand whole in `bytes`; what is not whole yet stays there.
fn last(bytes: &mut Vec<u8>) -> Result<Option<Size>, NoSize> {
    let (mut size, mut done) = (None, 0);
    loop {
        let rest = bytes[done..].trim_ascii_start();
        done = bytes.len() - rest.len();
        let whole = object(rest)?;
        if whole.unwrap_or(rest.len()) >= LONGEST {
            return Err(NoSize);
        }
        let Some(length) = whole else { break };
        let Message { width, height } =
            serde_json::from_slice(&rest[..length]).map_err(|_| NoSize)?;
        size = Some(Size { columns: width, rows: height });
        done += length;
    }
    bytes.drain(..done);
    Ok(size)
}

/// The length of the JSON object at the beginning, once it is whole. Half of one may be no JSON yet: a minus.
fn object(bytes: &[u8]) -> Result<Option<usize>, NoSize> {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            _ if in_text => {}
            b'{' => depth += 1,
            b'}' if depth == 1 => return Ok(Some(at + 1)),
            b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return Err(NoSize);
        }
    }
    Ok(None)
}

/// The last size in bytes that come so many at a time; nothing if they are none.
#[cfg(any(test, fuzzing))]
pub(crate) fn sizes(bytes: &[u8], piece: usize) -> Option<Option<Size>> {
    let (mut held, mut size) = (Vec::new(), None);
    for piece in bytes.chunks(piece.max(1)) {
        held.extend_from_slice(piece);
        size = last(&mut held).ok()?.or(size);
    }
    Some(size)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn size(columns: u16, rows: u16) -> Option<Size> {
        Some(Size { columns, rows })
    }

    #[test]
    fn the_last_whole_size_counts() {
        let mut bytes = br#"{"Width":80,"Height":24}{"Width":100,"Height":30}
{"Wid"#
            .to_vec();
        assert_eq!(last(&mut bytes), Ok(size(100, 30)));
        assert_eq!(last(&mut bytes), Ok(None));
        bytes.extend_from_slice(br#"th":1,"Height":2}"#);
        assert_eq!(last(&mut bytes), Ok(size(1, 2)));
        assert_eq!(last(&mut bytes), Ok(None));
    }

    #[test]
    fn what_is_no_size_is_an_error() {
        for wrong in ["x", "{}", r#"{"Width":-1,"Height":1}"#, r#"{"Width":70000,"Height":1}"#] {
            assert_eq!(last(&mut wrong.as_bytes().to_vec()), Err(NoSize), "{wrong}");
        }
        assert_eq!(last(&mut vec![b' '; 10]), Ok(None));
        assert_eq!(last(&mut [b"{\"", vec![b'a'; LONGEST].as_slice()].concat()), Err(NoSize));
    }

    #[test]
    fn a_size_may_come_in_any_pieces() {
        let bytes = br#" {"Depth":-1,"Width":80,"Note":"}\"{","More":{"x":[1.5e3]},"Height":24} "#;
        for piece in 1..=bytes.len() {
            assert_eq!(sizes(bytes, piece), Some(size(80, 24)), "{piece}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut bytes: Vec<u8>) {
            let _either = last(&mut bytes);
        }
    }
}
