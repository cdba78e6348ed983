//! Exec and attach over WebSocket: a numbered channel for each purpose.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use super::{Command, Ends, Form, carry_out};
use crate::ended::{Ended, together};
use crate::http::Site;
use crate::inbox::inbox;
use crate::outbox::{Open, Outbox, Parcel, queue};
use crate::pulse::Pace;
use crate::websocket::{self, Channels, Codec};

const STDOUT: u32 = 1;
const STDERR: u32 = 2;
const ERROR: u32 = 3;

/// How the client writes its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Protocol {
    pub(crate) codec: Codec,
    /// Whether it can end its stdin: v5.
    pub(crate) closes: bool,
    pub(crate) form: Form,
}

pub(super) async fn serve<T>(io: T, command: Command, protocol: Protocol, site: &Site) -> Ended
where
    T: AsyncRead + AsyncWrite + Send + Unpin,
{
    let wants = command.wants();
    let (sender, parcels) = queue();
    let (stdin_feed, stdin) = inbox(None);
    let (resize_feed, resize) = inbox(None);
    let outbox = |channel| Outbox::new(channel, sender.clone(), Arc::new(Open));
    let ends = Ends {
        stdin: wants.stdin.then_some(stdin),
        stdout: wants.stdout.then(|| outbox(STDOUT)),
        stderr: wants.stderr.then(|| outbox(STDERR)),
        resize: wants.tty.then_some(resize),
        error: outbox(ERROR),
        form: protocol.form,
    };
    let feeds =
        vec![wants.stdin.then_some(stdin_feed), None, None, None, wants.tty.then_some(resize_feed)];
    let channels = Channels { feeds, codec: protocol.codec, closes: protocol.closes };
    let first = match (wants.stdout, wants.stderr) {
        (true, _) => STDOUT,
        (false, true) => STDERR,
        (false, false) => ERROR,
    };
    let handle = async {
        // An empty message says that the session has begun. The Go client, which speaks v5, complains of one
        // that comes before it is ready.
        if !protocol.closes {
            let _over = sender.send(Parcel::Data(first, Vec::new())).await;
        }
        carry_out(&site.backend, command, ends).await;
        let _over = sender.send(Parcel::Goodbye).await;
    };
    let socket = websocket::open(io).await;
    let drive = channels.drive(socket, parcels, Pace::of(&site.config));
    together(handle, drive).await
}
