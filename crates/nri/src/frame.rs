//! What comes over a plugin's socket: frames of two ttrpc connections, taken apart.
//!
//! ```text
//!   frame:   connection (u32), length (u32), so many bytes of that connection's stream
//!   stream:  length (u32), stream id (u32), type (u8), flags (u8), a message; again and again
//! ```
//!
//! Numbers are big-endian. A message may come in several frames, and a frame may hold several. Pure:
//! bytes in, messages out. What is kept never exceeds one message of each connection, and memory is
//! taken as bytes come, not as lengths promise.

/// A frame's own header.
const FRAME_HEADER: usize = 8;

/// ttrpc's header of each message.
pub(crate) const MESSAGE_HEADER: usize = 10;

/// The largest message that ttrpc allows, bytes.
pub const MAX_MESSAGE: usize = 4 << 20;

const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;

/// The two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conn {
    /// The runtime calls the plugin.
    Plugin,
    /// The plugin calls the runtime.
    Runtime,
}

impl Conn {
    /// The one with this number.
    fn of(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Plugin),
            2 => Some(Self::Runtime),
            _ => None,
        }
    }

    fn number(self) -> u32 {
        match self {
            Self::Plugin => 1,
            Self::Runtime => 2,
        }
    }
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A call.
    Request,
    /// The answer to one.
    Response,
}

/// A whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The connection that it came over.
    pub conn: Conn,
    /// Tells calls apart, and which call an answer is for.
    pub stream: u32,
    /// What it is.
    pub kind: Kind,
    /// The encoded request or response.
    pub body: Vec<u8>,
}

/// Why a plugin's bytes cannot be understood. What follows them cannot be either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A frame of a connection that there is not.
    #[error("it sent a frame of connection {0}: there are only 1 and 2")]
    Connection(u32),
    /// A frame that is larger than any message.
    #[error("it sent a frame of {0} bytes: at most {max} are allowed", max = MAX_MESSAGE + MESSAGE_HEADER)]
    Frame(u32),
    /// A message that is larger than ttrpc allows.
    #[error("it sent a message of {0} bytes: at most {MAX_MESSAGE} are allowed")]
    Message(u32),
    /// A message that is neither a request nor a response.
    #[error("it sent a message of type {0}: there are only requests (1) and responses (2)")]
    Type(u8),
}

/// Takes apart what a plugin sends.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The header of a frame, as far as it has come.
    header: Vec<u8>,
    /// Whose bytes follow, and how many.
    frame: Option<(Conn, usize)>,
    /// What has come of each connection's next message.
    streams: [Vec<u8>; 2],
}

impl Decoder {
    /// Takes the next bytes and gives the messages that are whole with them, in order.
    ///
    /// # Errors
    /// Why these bytes are none of the protocol's; feed it no more then.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<Vec<Message>, Broken> {
        let mut messages = Vec::new();
        while !bytes.is_empty() {
            let Some((conn, left)) = self.frame else {
                let (some, rest) =
                    bytes.split_at(bytes.len().min(FRAME_HEADER - self.header.len()));
                self.header.extend_from_slice(some);
                bytes = rest;
                self.begin_frame()?;
                continue;
            };
            let (some, rest) = bytes.split_at(bytes.len().min(left));
            bytes = rest;
            self.frame = (left > some.len()).then_some((conn, left - some.len()));
            let stream = &mut self.streams[conn.number() as usize - 1];
            stream.extend_from_slice(some);
            take_messages(conn, stream, &mut messages)?;
        }
        Ok(messages)
    }

    fn begin_frame(&mut self) -> Result<(), Broken> {
        let Some(header) = self.header.first_chunk::<FRAME_HEADER>() else { return Ok(()) };
        let [c0, c1, c2, c3, l0, l1, l2, l3] = *header;
        let (number, length) =
            (u32::from_be_bytes([c0, c1, c2, c3]), u32::from_be_bytes([l0, l1, l2, l3]));
        self.header.clear();
        let conn = Conn::of(number).ok_or(Broken::Connection(number))?;
        if length as usize > MAX_MESSAGE + MESSAGE_HEADER {
            return Err(Broken::Frame(length));
        }
        self.frame = (length > 0).then_some((conn, length as usize));
        Ok(())
    }
}

/// Takes whole messages from the front of a connection's bytes.
fn take_messages(
    conn: Conn,
    stream: &mut Vec<u8>,
    messages: &mut Vec<Message>,
) -> Result<(), Broken> {
    let mut done = 0;
    while let Some((header, rest)) = stream[done..].split_first_chunk::<MESSAGE_HEADER>() {
        let [l0, l1, l2, l3, s0, s1, s2, s3, kind, _flags] = *header;
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        if length as usize > MAX_MESSAGE {
            return Err(Broken::Message(length));
        }
        let kind = match kind {
            REQUEST => Kind::Request,
            RESPONSE => Kind::Response,
            other => return Err(Broken::Type(other)),
        };
        let Some(body) = rest.get(..length as usize) else { break };
        let stream = u32::from_be_bytes([s0, s1, s2, s3]);
        messages.push(Message { conn, stream, kind, body: body.to_vec() });
        done += MESSAGE_HEADER + body.len();
    }
    stream.drain(..done);
    if stream.is_empty() {
        // A plugin that is silent holds no buffer.
        *stream = Vec::new();
    }
    Ok(())
}

/// How much of a message the first frame holds. The Go library reads a message through a buffer of this
/// size, and gives up over a frame that is larger than what it reads into: first that buffer, then,
/// for a message that goes on, room for all of the rest.
const FIRST: usize = 4096;

/// A message in frames: one, or two if it is large. Its body must not be larger than [`MAX_MESSAGE`].
#[must_use]
pub fn encode(message: &Message) -> Vec<u8> {
    let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes();
    let conn = message.conn.number().to_be_bytes();
    let (first, rest) = message.body.split_at(message.body.len().min(FIRST - MESSAGE_HEADER));
    let mut out = Vec::with_capacity(2 * FRAME_HEADER + MESSAGE_HEADER + message.body.len());
    out.extend_from_slice(&conn);
    out.extend_from_slice(&length(MESSAGE_HEADER + first.len()));
    out.extend_from_slice(&length(message.body.len()));
    out.extend_from_slice(&message.stream.to_be_bytes());
    out.push(match message.kind {
        Kind::Request => REQUEST,
        Kind::Response => RESPONSE,
    });
    out.push(0);
    out.extend_from_slice(first);
    if !rest.is_empty() {
        out.extend_from_slice(&conn);
        out.extend_from_slice(&length(rest.len()));
        out.extend_from_slice(rest);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(conn: Conn, stream: u32, body: &[u8]) -> Message {
        Message { conn, stream, kind: Kind::Request, body: body.to_vec() }
    }

    /// The bytes of a connection's stream, in a frame.
    fn frame(conn: u32, bytes: &[u8]) -> Vec<u8> {
        let mut out = conn.to_be_bytes().to_vec();
        out.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
        out.extend_from_slice(bytes);
        out
    }

    #[test]
    fn messages_of_both_connections_come_apart_whatever_the_pieces() {
        let all = [
            message(Conn::Plugin, 1, b"one"),
            Message { kind: Kind::Response, ..message(Conn::Runtime, 3, b"") },
            message(Conn::Plugin, 5, &[7; 300]),
        ];
        let bytes: Vec<u8> = all.iter().flat_map(encode).collect();
        for piece in [1, 2, 7, 19, bytes.len()] {
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            for some in bytes.chunks(piece) {
                got.extend(decoder.feed(some).unwrap());
            }
            assert_eq!(got, all, "in pieces of {piece}");
        }
    }

    #[test]
    fn a_large_message_goes_out_in_two_frames_the_first_of_a_buffers_size() {
        let large = message(Conn::Plugin, 1, &[5; 10_000]);
        let bytes = encode(&large);
        assert_eq!(bytes[..8], [1u32.to_be_bytes(), 4096u32.to_be_bytes()].concat());
        let second = &bytes[8 + 4096..];
        let rest = 10_000u32 - 4086;
        assert_eq!(second[..8], [1u32.to_be_bytes(), rest.to_be_bytes()].concat());
        assert_eq!(Decoder::default().feed(&bytes).unwrap(), [large]);
        let small = encode(&message(Conn::Plugin, 1, &[5; 4086]));
        assert_eq!(small.len(), 8 + 4096);
    }

    #[test]
    fn a_message_may_come_in_several_frames_between_those_of_the_other_connection() {
        let one = message(Conn::Plugin, 1, b"first");
        let other = message(Conn::Runtime, 2, b"second");
        let whole = encode(&one);
        let (header, rest) = whole[FRAME_HEADER..].split_at(MESSAGE_HEADER);
        let (some, more) = rest.split_at(2);
        let mut bytes = frame(1, header);
        bytes.extend(frame(1, b""));
        bytes.extend(frame(1, some));
        bytes.extend(encode(&other));
        bytes.extend(frame(1, more));
        assert_eq!(Decoder::default().feed(&bytes).unwrap(), [other, one]);
    }

    #[test]
    fn a_frame_may_hold_several_messages() {
        let (one, two) = (message(Conn::Runtime, 1, b"a"), message(Conn::Runtime, 3, b"b"));
        let both = [&encode(&one)[FRAME_HEADER..], &encode(&two)[FRAME_HEADER..]].concat();
        assert_eq!(Decoder::default().feed(&frame(2, &both)).unwrap(), [one, two]);
    }

    #[test]
    fn what_is_none_of_the_protocol_is_said() {
        let refused = |bytes: &[u8]| Decoder::default().feed(bytes).unwrap_err();
        assert_eq!(refused(&frame(0, b"x")), Broken::Connection(0));
        assert_eq!(refused(&frame(3, b"")), Broken::Connection(3));
        let large = u32::try_from(MAX_MESSAGE + MESSAGE_HEADER + 1).unwrap();
        let header = [1u32.to_be_bytes(), large.to_be_bytes()].concat();
        assert_eq!(refused(&header), Broken::Frame(large));
        let length = u32::try_from(MAX_MESSAGE + 1).unwrap();
        let message = [&length.to_be_bytes()[..], &[0, 0, 0, 1, REQUEST, 0]].concat();
        assert_eq!(refused(&frame(1, &message)), Broken::Message(length));
        assert_eq!(refused(&frame(1, &[0, 0, 0, 0, 0, 0, 0, 1, 9, 0])), Broken::Type(9));
    }

    #[test]
    fn a_promise_takes_no_memory() {
        let mut decoder = Decoder::default();
        let length = u32::try_from(MAX_MESSAGE).unwrap().to_be_bytes();
        let header = [&length[..], &[0, 0, 0, 1, REQUEST, 0]].concat();
        let bytes = [
            &1u32.to_be_bytes()[..],
            &u32::try_from(MAX_MESSAGE + 10).unwrap().to_be_bytes(),
            &header,
        ]
        .concat();
        assert_eq!(decoder.feed(&bytes).unwrap(), []);
        assert!(decoder.streams[0].capacity() < 100);
    }
}
