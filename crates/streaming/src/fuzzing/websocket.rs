//! WebSocket: messages alone, a session of channels, and a byte stream in it.

use tokio::io::AsyncReadExt as _;

use super::connection::{Connection, take};
use super::{pace, run};
use crate::inbox::inbox;
use crate::outbox::queue;
use crate::remote_command::sizes;
use crate::websocket::{Channels, Codec, Tunnel, open, reread};

/// More than the channels of exec, and less than those of port-forward.
const CHANNELS: u8 = 6;

/// Takes the rest of `data` for what a client sends. The first byte says for what: messages in one of three
/// forms, or a tunnel; the second how many bytes come at a time.
///
/// # Panics
/// What is read is not the same when the bytes come in pieces, or when it is written again.
pub fn websocket(data: &[u8]) {
    let [how, piece, bytes @ ..] = data else { return };
    let piece = 1 + usize::from(*piece);
    let (codec, closes) = match how % 4 {
        0 => (Codec::Binary, false),
        1 => (Codec::Binary, true),
        2 => (Codec::Base64, false),
        _ => {
            let whole = run(tunnel(bytes, bytes.len()));
            assert_eq!(whole, run(tunnel(bytes, piece)), "the pieces change the tunnel");
            return;
        }
    };
    reread(bytes, codec, closes);
    let size = sizes(bytes, bytes.len());
    assert_eq!(size, sizes(bytes, piece), "the pieces change the size");
    let whole = run(channels(bytes, bytes.len(), codec, closes));
    assert_eq!(whole, run(channels(bytes, piece, codec, closes)), "the pieces change it");
}

/// What each channel gave and whether it ended well, and how the session ended.
async fn channels(
    bytes: &[u8],
    piece: usize,
    codec: Codec,
    closes: bool,
) -> (Vec<(Vec<u8>, bool)>, String) {
    let (connection, written) = Connection::new(bytes, piece);
    let (feeds, inboxes): (Vec<_>, Vec<_>) = (0..CHANNELS).map(|_| inbox(None)).unzip();
    let reading = inboxes.into_iter().map(|mut inbox| async move {
        let mut bytes = Vec::new();
        let well = inbox.read_to_end(&mut bytes).await.is_ok();
        (bytes, well)
    });
    let (sender, parcels) = queue();
    let channels = Channels { feeds: feeds.into_iter().map(Some).collect(), codec, closes };
    let socket = open(connection).await;
    let driving = channels.drive(socket, parcels, pace());
    let (read, ended) = tokio::join!(futures_util::future::join_all(reading), driving);
    drop(sender);
    let answers = take(&written).len();
    assert!(answers <= 2 * bytes.len() + 200, "{answers} bytes answer {}", bytes.len());
    (read, ended.to_string())
}

/// The bytes of a tunnel, and how it ended.
async fn tunnel(bytes: &[u8], piece: usize) -> (Vec<u8>, Option<String>) {
    let (connection, _written) = Connection::new(bytes, piece);
    let (mut tunnel, mut read) = (Tunnel::new(open(connection).await), Vec::new());
    let ended = tunnel.read_to_end(&mut read).await;
    assert!(read.len() <= bytes.len(), "more comes out than goes in");
    (read, ended.err().map(|error| error.to_string()))
}
