//! Frames of SPDY/3.1 as bytes (draft-mbelshe-httpbis-spdy-00, section 2). Pure; what comes from the peer is
//! believed in nothing.

use super::headers::{Deflater, Headers, HeadersError, Inflater};

/// The length of what every frame begins with.
pub(crate) const HEAD: usize = 8;
/// The largest control frame that is read. Data frames may be larger: they are never kept whole.
pub(crate) const CONTROL: usize = 16 << 10;
/// The largest window.
pub(crate) const LARGEST_WINDOW: u32 = 0x7fff_ffff;

const VERSION: u16 = 3;
const FIN: u8 = 1;
const UNIDIRECTIONAL: u8 = 2;
const INITIAL_WINDOW_SIZE: u32 = 7;

/// Why a frame cannot be read. The session ends with it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a frame is of SPDY version {0}, not 3")]
    Version(u16),
    #[error("a control frame has {0} bytes, more than {CONTROL}")]
    Large(usize),
    #[error("a {0} frame has {1} bytes, which it cannot have")]
    Length(&'static str, usize),
    #[error("a {0} frame names stream 0")]
    NoStream(&'static str),
    #[error("a {0} frame says {1}, which it cannot say")]
    Value(&'static str, u32),
    #[error("a {0} frame cannot be read: {1}")]
    Headers(&'static str, HeadersError),
}

/// The first eight bytes of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Head {
    Data { stream: u32, fin: bool, length: usize },
    Control { kind: u16, flags: u8, length: usize },
}

/// Why a stream is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reset {
    Invalid = 2,
    Refused = 3,
    Cancel = 5,
    FlowControl = 7,
}

/// Why a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Farewell {
    Fine = 0,
    Protocol = 1,
}

/// A control frame that means something to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Control {
    SynStream {
        stream: u32,
        fin: bool,
        unidirectional: bool,
        headers: Headers,
    },
    SynReply {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    RstStream {
        stream: u32,
        status: u32,
    },
    /// The one setting that concerns us, if it is among them.
    Settings {
        initial_window: Option<u32>,
    },
    Ping(u32),
    GoAway {
        last: u32,
        status: u32,
    },
    Headers {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    /// Stream 0 is the session.
    WindowUpdate {
        stream: u32,
        delta: u32,
    },
    /// CREDENTIAL, or a kind that nobody knows: to be ignored (section 2.2.1).
    Other,
}

impl Head {
    pub(crate) fn parse(bytes: [u8; HEAD]) -> Result<Self, FrameError> {
        let [a, b, c, d, flags, x, y, z] = bytes;
        let length = u32::from_be_bytes([0, x, y, z]) as usize;
        if a & 0x80 == 0 {
            return match u32::from_be_bytes([a, b, c, d]) {
                0 => Err(FrameError::NoStream("data")),
                stream => Ok(Self::Data { stream, fin: flags & FIN != 0, length }),
            };
        }
        let version = u16::from_be_bytes([a & 0x7f, b]);
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        if length > CONTROL {
            return Err(FrameError::Large(length));
        }
        Ok(Self::Control { kind: u16::from_be_bytes([c, d]), flags, length })
    }
}

impl Control {
    /// Reads what follows the head of a control frame.
    pub(crate) fn parse(
        kind: u16,
        flags: u8,
        payload: &[u8],
        inflater: &mut Inflater,
    ) -> Result<Self, FrameError> {
        let fin = flags & FIN != 0;
        match kind {
            1 => {
                let (stream, headers) = block("SYN_STREAM", payload, 6, inflater)?;
                let unidirectional = flags & UNIDIRECTIONAL != 0;
                Ok(Self::SynStream { stream, fin, unidirectional, headers })
            }
            2 => {
                let (stream, headers) = block("SYN_REPLY", payload, 0, inflater)?;
                Ok(Self::SynReply { stream, fin, headers })
            }
            8 => {
                let (stream, headers) = block("HEADERS", payload, 0, inflater)?;
                Ok(Self::Headers { stream, fin, headers })
            }
            3 => {
                let [stream, status] = words("RST_STREAM", payload)?;
                match (stream & LARGEST_WINDOW, status) {
                    (0, _) => Err(FrameError::NoStream("RST_STREAM")),
                    (_, 0) => Err(FrameError::Value("RST_STREAM", status)),
                    (stream, _) => Ok(Self::RstStream { stream, status }),
                }
            }
            4 => settings(payload),
            6 => {
                let [id] = words("PING", payload)?;
                Ok(Self::Ping(id))
            }
            7 => {
                let [last, status] = words("GOAWAY", payload)?;
                Ok(Self::GoAway { last: last & LARGEST_WINDOW, status })
            }
            9 => {
                let [stream, delta] = words("WINDOW_UPDATE", payload)?;
                match delta & LARGEST_WINDOW {
                    0 => Err(FrameError::Value("WINDOW_UPDATE", delta)),
                    delta => Ok(Self::WindowUpdate { stream: stream & LARGEST_WINDOW, delta }),
                }
            }
            _ => Ok(Self::Other),
        }
    }

    /// Appends the whole frame; nothing for [`Control::Other`].
    pub(crate) fn append(&self, deflater: &mut Deflater, out: &mut Vec<u8>) {
        match self {
            Self::SynStream { stream, fin, unidirectional, headers } => {
                let flags =
                    if *fin { FIN } else { 0 } | if *unidirectional { UNIDIRECTIONAL } else { 0 };
                let fixed = [stream.to_be_bytes().as_slice(), &[0; 6]].concat();
                append(1, flags, &fixed, Some((headers, deflater)), out);
            }
            Self::SynReply { stream, fin, headers } => {
                append(2, (*fin).into(), &stream.to_be_bytes(), Some((headers, deflater)), out);
            }
            Self::Headers { stream, fin, headers } => {
                append(8, (*fin).into(), &stream.to_be_bytes(), Some((headers, deflater)), out);
            }
            Self::RstStream { stream, status } => append(3, 0, &pair(*stream, *status), None, out),
            Self::Settings { initial_window: None } => append(4, 0, &[0; 4], None, out),
            Self::Settings { initial_window: Some(size) } => {
                let one = 1_u32.to_be_bytes();
                let fixed = [one.as_slice(), &pair(INITIAL_WINDOW_SIZE, *size)].concat();
                append(4, 0, &fixed, None, out);
            }
            Self::Ping(id) => append(6, 0, &id.to_be_bytes(), None, out),
            Self::GoAway { last, status } => append(7, 0, &pair(*last, *status), None, out),
            Self::WindowUpdate { stream, delta } => append(9, 0, &pair(*stream, *delta), None, out),
            Self::Other => {}
        }
    }
}

/// Appends a data frame. `data` has at most 2^24 - 1 bytes.
pub(crate) fn append_data(stream: u32, fin: bool, data: &[u8], out: &mut Vec<u8>) {
    let [_, x, y, z] = (data.len() as u32).to_be_bytes();
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(&[fin.into(), x, y, z]);
    out.extend_from_slice(data);
}

/// The stream's number and the headers of a frame that has `between` bytes between the two.
fn block(
    frame: &'static str,
    payload: &[u8],
    between: usize,
    inflater: &mut Inflater,
) -> Result<(u32, Headers), FrameError> {
    let short = || FrameError::Length(frame, payload.len());
    let (stream, rest) = payload.split_first_chunk().ok_or_else(short)?;
    let block = rest.get(between..).ok_or_else(short)?;
    let headers = inflater.headers(block).map_err(|error| FrameError::Headers(frame, error))?;
    match u32::from_be_bytes(*stream) & LARGEST_WINDOW {
        0 => Err(FrameError::NoStream(frame)),
        stream => Ok((stream, headers)),
    }
}

/// A payload that is `N` numbers and nothing else.
fn words<const N: usize>(frame: &'static str, payload: &[u8]) -> Result<[u32; N], FrameError> {
    let mut words = [0; N];
    if payload.len() != 4 * N {
        return Err(FrameError::Length(frame, payload.len()));
    }
    for (word, bytes) in words.iter_mut().zip(payload.chunks_exact(4)) {
        *word = bytes.iter().fold(0, |word, byte| word << 8 | u32::from(*byte));
    }
    Ok(words)
}

fn settings(payload: &[u8]) -> Result<Control, FrameError> {
    let short = || FrameError::Length("SETTINGS", payload.len());
    let (count, entries) = payload.split_first_chunk().ok_or_else(short)?;
    let count = u32::from_be_bytes(*count) as usize;
    if count.checked_mul(8) != Some(entries.len()) {
        return Err(short());
    }
    let mut initial_window = None;
    for entry in entries.chunks_exact(8) {
        let [id, value] = words("SETTINGS", entry)?;
        if id & 0x00ff_ffff == INITIAL_WINDOW_SIZE {
            if value > LARGEST_WINDOW {
                return Err(FrameError::Value("SETTINGS", value));
            }
            initial_window = Some(value);
        }
    }
    Ok(Control::Settings { initial_window })
}

fn pair(a: u32, b: u32) -> [u8; 8] {
    (u64::from(a) << 32 | u64::from(b)).to_be_bytes()
}

fn append(
    kind: u16,
    flags: u8,
    fixed: &[u8],
    headers: Option<(&Headers, &mut Deflater)>,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    out.extend_from_slice(&(0x8000 | VERSION).to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&[flags, 0, 0, 0]);
    out.extend_from_slice(fixed);
    if let Some((headers, deflater)) = headers {
        deflater.append(headers, out);
    }
    let [_, length @ ..] = ((out.len() - start - HEAD) as u32).to_be_bytes();
    out[start + 5..start + HEAD].copy_from_slice(&length);
}

#[cfg(test)]
mod tests;
