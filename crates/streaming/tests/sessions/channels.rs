//! Exec, attach and port-forward in WebSocket channels.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Bytes, Message};

use crate::backend::{Event, LARGE, PATIENCE, check, exec, forward, piece, plain};
use crate::upgrade::{ask, split};
use crate::websocket::{Socket, dial, headers};

const V4: &str = "v4.channel.k8s.io";
const V5: &str = "v5.channel.k8s.io";
const SUCCESS: &[u8] = br#"{"metadata":{},"status":"Success"}"#;

/// What came in each channel until the server closed the session.
async fn all(socket: &mut Socket) -> [Vec<u8>; 4] {
    let mut all = [const { Vec::new() }; 4];
    loop {
        match socket.next().await.expect("no close").unwrap() {
            Message::Binary(bytes) => all[usize::from(bytes[0])].extend(&bytes[1..]),
            Message::Close(frame) => {
                assert_eq!(frame.unwrap().code, CloseCode::Normal);
                return all;
            }
            other => panic!("{other:?}"),
        }
    }
}

async fn send(socket: &mut Socket, channel: u8, bytes: &[u8]) {
    let message = [&[channel], bytes].concat();
    socket.send(Message::Binary(message.into())).await.unwrap();
}

#[tokio::test]
async fn the_exit_code_is_in_the_status() {
    let site = plain().await;
    for protocol in [V4, V5] {
        let url = site.server.exec(exec(&["exit", "3"], "stdout")).unwrap();
        let [_, stdout, _, error] = all(&mut dial(&url, protocol).await).await;
        assert!(stdout.is_empty());
        let error = String::from_utf8(error).unwrap();
        assert!(error.contains(r#""causes":[{"reason":"ExitCode","message":"3"}]"#), "{error}");
    }
}

#[tokio::test]
async fn older_clients_read_the_bare_message() {
    let site = plain().await;
    for protocol in ["channel.k8s.io", ""] {
        let url = site.server.exec(exec(&["both"], "stdout stderr")).unwrap();
        let [_, stdout, stderr, error] = all(&mut dial(&url, protocol).await).await;
        assert_eq!((stdout, stderr), (b"to stdout".to_vec(), b"to stderr".to_vec()));
        assert!(error.is_empty());
        let url = site.server.exec(exec(&["fail", "no shell"], "stdout")).unwrap();
        let [.., error] = all(&mut dial(&url, protocol).await).await;
        assert_eq!(error, b"no shell");
    }
}

#[tokio::test]
async fn a_session_begins_with_an_empty_message() {
    let site = plain().await;
    for (streams, channel) in [("stdin stdout stderr", 1), ("stdin stderr", 2), ("stdin", 3)] {
        let url = site.server.exec(exec(&["hang"], streams)).unwrap();
        let mut socket = dial(&url, V4).await;
        let first = socket.next().await.unwrap().unwrap();
        assert_eq!(first, Message::Binary(Bytes::from(vec![channel])));
    }
}

#[tokio::test]
async fn the_end_of_stdin_is_seen() {
    let site = plain().await;
    let url = site.server.exec(exec(&["cat"], "stdin stdout")).unwrap();
    let mut socket = dial(&url, V5).await;
    send(&mut socket, 0, b"one ").await;
    send(&mut socket, 9, b"for nobody").await;
    socket.send(Message::Binary(Bytes::new())).await.unwrap();
    send(&mut socket, 0, b"two").await;
    send(&mut socket, 255, &[0]).await;
    let [_, stdout, _, error] = all(&mut socket).await;
    assert_eq!((stdout.as_slice(), error.as_slice()), (b"one two".as_slice(), SUCCESS));
}

#[tokio::test]
async fn messages_may_be_in_base64() {
    let site = plain().await;
    let url = site.server.exec(exec(&["cat"], "stdin stdout")).unwrap();
    let mut socket = dial(&url, "v4.base64.channel.k8s.io").await;
    socket.send(Message::Text("0Zm9vCg==".into())).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Text("1".into()));
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Text("1Zm9vCg==".into()));
    socket.send(Message::Text("0???".into())).await.unwrap();
    assert!(!matches!(socket.next().await, Some(Ok(_))));
}

#[tokio::test]
async fn a_terminal_has_sizes() {
    let site = plain().await;
    for protocol in [V4, V5] {
        let url = site.server.exec(exec(&["sizes", "1"], "stdout tty")).unwrap();
        let mut socket = dial(&url, protocol).await;
        send(&mut socket, 4, br#"{"Width":132,"Height":43}"#).await;
        let [_, stdout, ..] = all(&mut socket).await;
        assert_eq!(stdout, b"132x43\n");
    }
}

#[tokio::test]
async fn pings_are_answered() {
    let site = plain().await;
    let url = site.server.exec(exec(&["hang"], "stdout")).unwrap();
    let mut socket = dial(&url, V5).await;
    socket.send(Message::Ping(Bytes::from_static(b"there?"))).await.unwrap();
    let answer = socket.next().await.unwrap().unwrap();
    assert_eq!(answer, Message::Pong(Bytes::from_static(b"there?")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_output_is_whole() {
    let site = plain().await;
    let url = site.server.exec(exec(&["give"], "stdout")).unwrap();
    let (mut socket, mut at) = (dial(&url, V5).await, 0);
    let mut status = Vec::new();
    while let Some(Ok(Message::Binary(bytes))) = socket.next().await {
        match bytes[0] {
            1 => {
                check(at, &bytes[1..]);
                at += bytes.len() - 1;
            }
            _ => status.extend(&bytes[1..]),
        }
    }
    assert_eq!((at, status.as_slice()), (LARGE, SUCCESS));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_input_is_whole() {
    let site = plain().await;
    let url = site.server.exec(exec(&["take"], "stdin stdout")).unwrap();
    let (mut socket, mut at) = (dial(&url, V5).await, 0);
    while at < LARGE {
        let bytes = piece(at, (LARGE - at).min(300_007));
        send(&mut socket, 0, &bytes).await;
        at += bytes.len();
    }
    send(&mut socket, 255, &[0]).await;
    let [_, stdout, _, error] = all(&mut socket).await;
    assert_eq!((stdout, error.as_slice()), (LARGE.to_string().into_bytes(), SUCCESS));
}

#[tokio::test]
async fn a_client_that_leaves_cancels_the_command() {
    let mut site = plain().await;
    for vanishes in [true, false] {
        let url = site.server.exec(exec(&["hang"], "stdin stdout")).unwrap();
        let mut socket = dial(&url, V5).await;
        assert_eq!(site.events.recv().await, Some(Event::Started));
        if vanishes {
            drop(socket);
        } else {
            socket.close(None).await.unwrap();
        }
        assert_eq!(timeout(PATIENCE, site.events.recv()).await.unwrap(), Some(Event::Dropped));
    }
}

#[tokio::test]
async fn ports_have_channels() {
    let site = plain().await;
    let url = site.server.port_forward(forward(&[7, 1])).unwrap();
    let mut socket = dial(&url, V4).await;
    let mut seen = [const { Vec::new() }; 4];
    let refused = b"\x01\x00cannot forward to port 1 of pod p: connection refused";
    while seen[3].len() < refused.len() || seen[0].len() < 2 {
        let bytes = socket.next().await.unwrap().unwrap().into_data();
        seen[usize::from(bytes[0])].extend(&bytes[1..]);
    }
    assert_eq!(seen[3], refused);
    assert_eq!((&seen[0], &seen[1], &seen[2]), (&vec![7, 0], &vec![7, 0], &vec![1, 0]));
    send(&mut socket, 0, b"hello").await;
    let answer = socket.next().await.unwrap().unwrap();
    assert_eq!(answer, Message::Binary(Bytes::from_static(b"\0hello")));
}

#[tokio::test]
async fn channels_need_ports() {
    let site = plain().await;
    let many: Vec<u16> = (1..=128).collect();
    for ports in [&[][..], &many] {
        let url = site.server.port_forward(forward(ports)).unwrap();
        let (answer, _) = ask(&url, &headers(V4)).await;
        assert_eq!(answer.status, 400, "{}", split(&url).1);
    }
}
