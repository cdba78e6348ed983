//! ttrpc's framing: a header of ten bytes (length, stream id, type, flags; big-endian), then a
//! protobuf message of that length. A unary call is one request frame and one response frame.

use crate::Kind;
use crate::decode::decode;
use crate::error::kind_of;

pub(crate) const HEADER: usize = 10;

/// No ttrpc implementation sends or takes a larger message.
pub(crate) const MAX_MESSAGE: usize = 4 << 20;

const TYPE_REQUEST: u8 = 1;
const TYPE_RESPONSE: u8 = 2;

/// A whole response taken from the front of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Incoming {
    pub(crate) stream: u32,
    pub(crate) message: Vec<u8>,
}

/// What the front of a buffer holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// A response, and how many bytes it took.
    Response(Incoming, usize),
    /// A frame that is none of ours to understand, and its bytes.
    Other(usize),
    /// Not yet a whole frame.
    Incomplete,
    /// A length beyond the limit: the stream cannot be trusted any more.
    Oversized(usize),
}

/// Appends a request frame.
pub(crate) fn append_request(buffer: &mut Vec<u8>, stream: u32, message: &[u8]) {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    buffer.reserve(HEADER + message.len());
    buffer.extend_from_slice(&length.to_be_bytes());
    buffer.extend_from_slice(&stream.to_be_bytes());
    buffer.extend_from_slice(&[TYPE_REQUEST, 0]);
    buffer.extend_from_slice(message);
}

/// Looks at the front of `buffer`.
pub(crate) fn next(buffer: &[u8]) -> Next {
    let Some((header, rest)) = buffer.split_first_chunk::<HEADER>() else {
        return Next::Incomplete;
    };
    let [l0, l1, l2, l3, s0, s1, s2, s3, kind, _flags] = *header;
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    if length > MAX_MESSAGE {
        return Next::Oversized(length);
    }
    let Some(message) = rest.get(..length) else { return Next::Incomplete };
    let taken = HEADER + length;
    if kind != TYPE_RESPONSE {
        return Next::Other(taken);
    }
    let stream = u32::from_be_bytes([s0, s1, s2, s3]);
    Next::Response(Incoming { stream, message: message.to_vec() }, taken)
}

/// The payload of a response message, or the error in it.
pub(crate) enum Reply {
    Payload(Vec<u8>),
    Refused(Kind, String),
    Undecodable(String),
}

/// Decodes a response message.
pub(crate) fn reply(message: &[u8]) -> Reply {
    let response: ttrpc::proto::Response = match decode(message) {
        Ok(response) => response,
        Err(e) => return Reply::Undecodable(e.to_string()),
    };
    match response.status.into_option() {
        Some(status) if status.code.value() != 0 => {
            // A code that gRPC does not have is as good as "unknown".
            let kind = status.code.enum_value().map_or(Kind::Broken, kind_of);
            Reply::Refused(kind, status.message)
        }
        _ => Reply::Payload(response.payload),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(stream: u32, message: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        append_request(&mut frame, stream, message);
        frame[8] = TYPE_RESPONSE;
        frame
    }

    #[test]
    fn the_header_is_as_the_protocol_has_it() {
        let mut frame = Vec::new();
        append_request(&mut frame, 0x0102_0305, b"abc");
        assert_eq!(frame, [0, 0, 0, 3, 1, 2, 3, 5, 1, 0, b'a', b'b', b'c']);
    }

    #[test]
    fn frames_are_taken_whole_or_not_at_all() {
        let frame = response(7, b"hello");
        for cut in 0..frame.len() {
            assert_eq!(next(&frame[..cut]), Next::Incomplete, "{cut}");
        }
        let mut two = frame.clone();
        two.extend(response(9, b""));
        let Next::Response(first, taken) = next(&two) else { panic!() };
        assert_eq!((first.stream, first.message.as_slice(), taken), (7, &b"hello"[..], 15));
        let Next::Response(second, taken) = next(&two[taken..]) else { panic!() };
        assert_eq!((second.stream, second.message.len(), taken), (9, 0, 10));
    }

    #[test]
    fn other_frames_are_passed_over_and_huge_ones_are_refused() {
        let mut data = response(1, b"xy");
        data[8] = 3;
        assert_eq!(next(&data), Next::Other(12));
        let mut huge = response(1, b"");
        huge[..4].copy_from_slice(&(MAX_MESSAGE as u32 + 1).to_be_bytes());
        assert_eq!(next(&huge), Next::Oversized(MAX_MESSAGE + 1));
    }
}
