//! Channels: the first byte of each message says which stream the rest belongs to.

use std::future::poll_fn;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::Interval;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Bytes, Message};

use crate::ended::Ended;
use crate::inbox::Feed;
use crate::outbox::Parcel;
use crate::pulse::{LINGER, Pace, Pulse};

/// The channel of v5 that says that another one ends.
const CLOSE: u8 = 255;

/// How a message holds its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    Binary,
    /// In base64, after the channel's digit.
    Base64,
}

/// Where the client's messages go.
pub(crate) struct Channels {
    /// By the channel's number; what comes for others is thrown away.
    pub(crate) feeds: Vec<Option<Feed>>,
    pub(crate) codec: Codec,
    /// Whether the client may end a channel.
    pub(crate) closes: bool,
}

/// What a message says.
#[derive(Debug, PartialEq, Eq)]
enum Said<'a> {
    Nothing,
    Bytes(u8, std::borrow::Cow<'a, [u8]>),
    Close(u8),
}

impl Channels {
    /// Moves messages until the client is gone, or everything up to a goodbye is sent.
    pub(crate) async fn drive<T>(
        self,
        socket: WebSocketStream<T>,
        parcels: mpsc::Receiver<Parcel>,
        pace: Pace,
    ) -> Ended
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let (sink, stream) = socket.split();
        let pulse = Pulse::new();
        let writing = write((sink, pace.pings()), parcels, self.codec, &pulse);
        let reading = self.read(stream, &pulse);
        tokio::pin!(reading);
        tokio::select! {
            ended = &mut reading => ended,
            written = writing => match written {
                // A client that does not close in time is not waited for.
                Ok(()) => match tokio::time::timeout(LINGER, reading).await {
                    Ok(_) | Err(_) => Ended::Fine,
                },
                Err(error) => error,
            },
            () = pulse.stopped(pace.idle()) => Ended::Idle(pace.idle()),
        }
    }

    async fn read<T>(&self, mut stream: SplitStream<WebSocketStream<T>>, pulse: &Pulse) -> Ended
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let ended = loop {
            let message = match stream.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) => break error.into(),
                None => break Ended::Gone,
            };
            // An answer to a ping of ours says that the client is there, not that it does anything.
            if !message.is_pong() {
                pulse.beat();
            }
            let bytes = match &message {
                Message::Binary(bytes) => bytes.as_ref(),
                Message::Text(text) => text.as_bytes(),
                Message::Close(_) => break Ended::Gone,
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            };
            if let Err(ended) = self.message(bytes).await {
                break ended;
            }
        };
        for feed in self.feeds.iter().flatten() {
            feed.break_off();
        }
        ended
    }

    async fn message(&self, message: &[u8]) -> Result<(), Ended> {
        let feed = |channel: u8| self.feeds.get(usize::from(channel)).and_then(Option::as_ref);
        match parse(message, self.codec, self.closes)? {
            Said::Nothing => {}
            Said::Close(channel) => {
                if let Some(feed) = feed(channel) {
                    feed.finish();
                }
            }
            Said::Bytes(channel, bytes) => {
                if let Some(feed) = feed(channel) {
                    poll_fn(|cx| feed.poll_room(cx)).await;
                    feed.push(&bytes);
                }
            }
        }
        Ok(())
    }
}

/// Reads one message. Pure.
fn parse(message: &[u8], codec: Codec, closes: bool) -> Result<Said<'_>, Ended> {
    let Some((&first, rest)) = message.split_first() else {
        return Ok(Said::Nothing);
    };
    match (codec, first) {
        (Codec::Binary, CLOSE) if closes => match rest {
            [channel] => Ok(Said::Close(*channel)),
            _ => Err(Ended::Close),
        },
        (Codec::Binary, channel) => Ok(Said::Bytes(channel, rest.into())),
        (Codec::Base64, digit) => {
            let channel = digit.wrapping_sub(b'0');
            let bytes = STANDARD.decode(rest).map_err(|_| Ended::Base64(channel))?;
            Ok(Said::Bytes(channel, bytes.into()))
        }
    }
}

/// The message that carries `bytes`.
fn message(channel: u8, bytes: &[u8], codec: Codec) -> Message {
    match codec {
        Codec::Binary => {
            let mut message = Vec::with_capacity(bytes.len() + 1);
            message.push(channel);
            message.extend_from_slice(bytes);
            Message::Binary(message.into())
        }
        Codec::Base64 => {
            let mut message = String::from(char::from(b'0'.wrapping_add(channel)));
            STANDARD.encode_string(bytes, &mut message);
            Message::Text(message.into())
        }
    }
}

/// Reads a message, and again what is written of what it says.
#[cfg(any(test, fuzzing))]
pub(crate) fn reread(bytes: &[u8], codec: Codec, closes: bool) {
    if let Ok(Said::Bytes(channel, said)) = parse(bytes, codec, closes) {
        let again = message(channel, &said, codec).into_data();
        // In base64, a channel is one byte; a text of others is UTF-8.
        if codec == Codec::Binary || channel < 10 {
            let again = parse(&again, codec, closes);
            assert!(matches!(again, Ok(Said::Bytes(c, b)) if c == channel && b == said));
        }
    }
}

async fn write<T>(
    (mut sink, mut pings): (SplitSink<WebSocketStream<T>, Message>, Interval),
    mut parcels: mpsc::Receiver<Parcel>,
    codec: Codec,
    pulse: &Pulse,
) -> Result<(), Ended>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        let parcel = tokio::select! {
            parcel = parcels.recv() => parcel.unwrap_or(Parcel::Goodbye),
            _ = pings.tick() => {
                sink.send(Message::Ping(Bytes::new())).await?;
                continue;
            }
        };
        match parcel {
            Parcel::Data(channel, bytes) => {
                pulse.beat();
                sink.send(message(channel as u8, &bytes, codec)).await?;
            }
            // Nothing says so here.
            Parcel::End(_) | Parcel::Cancel(_) => {}
            Parcel::Goodbye => {
                let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
                sink.send(Message::Close(Some(close))).await?;
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(message: &[u8], codec: Codec, closes: bool) -> Said<'_> {
        parse(message, codec, closes).unwrap()
    }

    #[test]
    fn messages_name_their_channels() {
        let bytes = |channel, bytes: &'static [u8]| Said::Bytes(channel, bytes.into());
        assert_eq!(said(b"", Codec::Binary, true), Said::Nothing);
        assert_eq!(said(b"\x00", Codec::Binary, true), bytes(0, b""));
        assert_eq!(said(b"\x04abc", Codec::Binary, true), bytes(4, b"abc"));
        assert_eq!(said(b"\xff\x00", Codec::Binary, true), Said::Close(0));
        assert_eq!(said(b"\xff\x00", Codec::Binary, false), bytes(255, b"\x00"));
        assert_eq!(said(b"0Zm9vCg==", Codec::Base64, false), bytes(0, b"foo\n"));
        assert!(matches!(parse(b"0Zm9v!", Codec::Base64, false), Err(Ended::Base64(0))));
        assert!(matches!(parse(b"\xff", Codec::Binary, true), Err(Ended::Close)));
        assert!(matches!(parse(b"\xff\x00\x00", Codec::Binary, true), Err(Ended::Close)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>, base64: bool, closes: bool) {
            let codec = if base64 { Codec::Base64 } else { Codec::Binary };
            let _either = parse(&bytes, codec, closes);
        }

        #[test]
        fn what_is_written_can_be_read(channel in 0..5_u8, bytes: Vec<u8>, base64: bool) {
            let codec = if base64 { Codec::Base64 } else { Codec::Binary };
            let message = message(channel, &bytes, codec).into_data();
            prop_assert_eq!(said(&message, codec, true), Said::Bytes(channel, bytes.into()));
        }
    }
}
